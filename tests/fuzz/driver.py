"""Runs a fuzz target under atheris: python -W error -m tests.fuzz.driver gguf 60."""

import argparse
import hashlib
import importlib
import multiprocessing
import random
import sys
import tempfile
from pathlib import Path

TARGETS = ("gguf", "safetensors", "template")
INSTRUMENTED = ["bitnet_numba", "jinja2"]
FINDINGS = Path(__file__).parents[2] / ".cache" / "fuzz"


def fuzz(name: str, seconds: int) -> None:
    """Fuzz in this process until a finding or the end of the time; libFuzzer then ends the process itself."""
    import atheris  # here, because only fuzzing needs it

    with atheris.instrument_imports(include=INSTRUMENTED):
        target = importlib.import_module(f"tests.fuzz.fuzz_{name}").TARGET

    def read(data: bytes) -> None:
        try:
            target.refusal(data)
        except BaseException:  # libFuzzer saves what takes too much time or memory, not what raises
            digest = hashlib.sha256(data).hexdigest()
            (FINDINGS / f"{name}-raise-{digest[:16]}").write_bytes(data)
            raise

    def mutate(data: bytes, max_bytes: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = target.mutate(data, rng) if rng.random() < 0.5 else data
        keep = changed != data and len(changed) <= max_bytes and rng.random() < 0.5
        return changed if keep else atheris.Mutate(changed[:max_bytes], max_bytes)

    corpus = Path(tempfile.mkdtemp(prefix="corpus-"))
    for number, seed in enumerate(target.seeds().values()):
        (corpus / f"seed-{number}").write_bytes(seed)
    FINDINGS.mkdir(parents=True, exist_ok=True)
    options = {
        "max_total_time": seconds,
        "max_len": target.max_bytes,
        "timeout": target.timeout_s,
        "rss_limit_mb": target.memory_mb,
        "artifact_prefix": f"{FINDINGS}/{name}-",
        "print_final_stats": 1,
    }
    arguments = [sys.argv[0], *(f"-{option}={value}" for option, value in options.items()), str(corpus)]
    atheris.Setup(arguments, read, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    """Fuzz one target in a process of its own, and remove its corpus afterwards; exit with 1 after a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("seconds", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        # inherited by the child: all that it writes, the corpus too, lies in the folder
        tempfile.tempdir = folder
        child = multiprocessing.get_context("fork").Process(target=fuzz, args=(arguments.target, arguments.seconds))
        child.start()
        child.join()
    if child.exitcode:
        sys.exit(f"{arguments.target}: a finding, or atheris failed; inputs that were found lie in {FINDINGS}")


if __name__ == "__main__":
    main()
