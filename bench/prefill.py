"""How fast is a prompt read, and what bounds it?

    python bench/make_model.py 2B-4T /tmp/2b.gguf
    python -m bench.prefill -m /tmp/2b.gguf --tokens 512 --threads 2
    python -m bench.prefill -m /tmp/2b.gguf --tokens 512 2048 4096 --rounds 3

Each ternary weight costs a multiply-accumulate a token; attention looks back on half the prompt, on average, and takes
two float multiply-adds for each element. Two loops that do nothing else, of the same process, are interleaved with the
prompts. A prompt is read up to its first token, sampling included.
"""

import statistics
import time
from functools import partial
from typing import NamedTuple

import bitnet_numba
from bench.common import interleaved, options, print_result, print_table
from bench.fma import FmaTest
from bench.peak import PeakTest
from bitnet_numba import LanguageModel


class Arithmetic(NamedTuple):
    """What a token of a prompt costs, on average.

    Attributes
    ----------
    macs : float
        Products of codes and int8, one a ternary weight.
    fmas : float
        Multiply-adds of floats, in attention.
    """

    macs: float
    fmas: float

    def seconds(self, macs_per_second: float, fmas_per_second: float) -> float:
        """Return how long that takes at best."""
        return self.macs / macs_per_second + self.fmas / fmas_per_second


def arithmetic(model: LanguageModel, n_tokens: int) -> Arithmetic:
    """Return what a token of a prompt of so many costs."""
    config = model.config
    position = config.n_layers * config.n_heads * config.head_dim * 2  # scores, and the sum of values
    return Arithmetic(model.info()["model"]["ternary_parameters"], position * (n_tokens + 1) / 2)


def read_prompt(model: LanguageModel, n_tokens: int) -> float:
    """Read a prompt up to its first token; return the seconds."""
    prompt = [i % 256 for i in range(n_tokens)]
    started = time.perf_counter()
    model.generate(prompt, max_tokens=1, ignore_eos=True)
    return time.perf_counter() - started


def measure(model: LanguageModel, lengths: list[int], rounds: int) -> list[dict[str, float]]:
    """Return a row for each length, prompts and loops interleaved."""
    peak, fma = PeakTest(model.threads), FmaTest(model.threads)
    read_prompt(model, min(lengths))
    medians = interleaved(rounds, *(test for n in lengths for test in (partial(read_prompt, model, n), peak, fma)))
    taken, macs, fmas = medians[::3], statistics.median(medians[1::3]), statistics.median(medians[2::3])
    peak.close()
    fma.close()
    best = [arithmetic(model, n).seconds(macs, fmas) for n in lengths]
    return [
        {
            "prompt_tokens_per_second": round(n / seconds, 2),
            "mac_share": round(arithmetic(model, n).macs * n / macs / seconds, 3),
            "bound_share": round(bound * n / seconds, 3),
            "time_growth": round(seconds / n / taken[0] * lengths[0], 3),
            "arithmetic_growth": round(bound / best[0], 3),
            "tokens": n,
            "macs_per_token": round(arithmetic(model, n).macs),
            "fmas_per_token": round(arithmetic(model, n).fmas),
            "peak_gmacs_per_second": round(macs / 1e9, 1),
            "fma_giga_per_second": round(fmas / 1e9, 1),
        }
        for n, seconds, bound in zip(lengths, taken, best, strict=True)
    ]


def main() -> None:
    """Print a table and a JSON object, of which the first length's figures stand at the top."""
    parser = options(__doc__)
    parser.add_argument("-m", "--model")
    parser.add_argument("--tokens", type=int, nargs="+", default=[512], help="lengths of prompts")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with bitnet_numba.load(arguments.model, threads=arguments.threads, cached_prefixes=0) as model:
        rows = measure(model, sorted(arguments.tokens), arguments.rounds)
        result = {**rows[0], "threads": model.threads, "isa": model.isa, "prompts": rows}
        macs = arithmetic(model, 1).macs
    peak, fma = rows[0]["peak_gmacs_per_second"], rows[0]["fma_giga_per_second"]
    print(f"bound by arithmetic: {macs / 1e9:.2f} G products a token in linear layers, {peak:.0f} G/s at best,")
    print(f"and float multiply-adds in attention, {fma:.0f} G/s at best")
    header = ["tokens", "tokens/s", "linear, of peak", "of bound", "time a token", "arithmetic a token"]
    cells = [
        [
            f"{row['tokens']}",
            f"{row['prompt_tokens_per_second']:.1f}",
            f"{row['mac_share']:.0%}",
            f"{row['bound_share']:.0%}",
            f"x {row['time_growth']:.2f}",
            f"x {row['arithmetic_growth']:.2f}",
        ]
        for row in rows
    ]
    print_table(header, cells)
    print_result(result)


if __name__ == "__main__":
    main()
