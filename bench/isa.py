"""Does each instruction set compute the same, and how fast?

    python -m bench.isa
    python -m bench.isa -m /tmp/2b.gguf --prompt-tokens 256 --isas avx512_vnni avx_vnni avx2

An instruction set is chosen once in a process, so each has processes of its own, in turns. Reading a prompt is bound by
multiply-accumulate, where instruction sets differ; answering by memory, where they differ little.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from bitnet_numba.backends.cpu.simd import cpu

SPEEDS = ("prompt_tokens_per_second", "tokens_per_second")


def measured(isa: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the report of a process with one instruction set."""
    numbers = {
        "--threads": arguments.threads,
        "--chunks": arguments.chunks,
        "--prompt-tokens": [arguments.prompt_tokens],
        "--tokens": [arguments.tokens],
    }
    options = [text for name, values in numbers.items() for text in (name, *map(str, values))]
    done = subprocess.run(
        [sys.executable, "-m", "bench.digest", arguments.model, *options],
        env=os.environ | {"BITNET_ISA": isa},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def summary(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the digests that one instruction set's reports hold, and the median of its speeds."""
    digests = sorted({digest for report in reports for digest in report["digests"].values()})
    return {"digests": digests} | {name: statistics.median(report[name] for report in reports) for name in SPEEDS}


def main() -> None:
    """Print a table and a JSON object; exit with 1 where digests differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="demo")
    parser.add_argument("--isas", nargs="+", default=cpu.available_isas(), choices=cpu.available_isas())
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="speeds are those of the most")
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64, help="of the answer")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rounds = [{isa: measured(isa, arguments) for isa in arguments.isas} for _ in range(arguments.rounds)]
    isas = {isa: summary([reports[isa] for reports in rounds]) for isa in arguments.isas}
    print(f"{'':12}  {'digest':16}  {'prompt tokens/s':>15}  {'tokens/s':>8}")
    for isa, found in isas.items():
        shown = " ".join(digest[:16] for digest in found["digests"])
        print(f"{isa:12}  {shown}  {found[SPEEDS[0]]:15.1f}  {found[SPEEDS[1]]:8.1f}")
    same = len({digest for found in isas.values() for digest in found["digests"]}) == 1
    print("one digest" if same else "DIGESTS DIFFER")
    print(json.dumps({"model": arguments.model, "threads": max(arguments.threads), "same": same, "isas": isas}))
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
