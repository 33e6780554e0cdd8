"""How many tokens a second do several sequences make together, and what bounds them?

    python bench/make_model.py 2B-4T /tmp/2b.gguf
    python -m bench.batch -m /tmp/2b.gguf --sizes 1 4 8 16

A step reads the weights once for all sequences: up to a few of them, memory is the bound, and another sequence costs
nothing; from there on it is arithmetic. So how many times one alone the others make depends on the machine of the
minute; a read test and a peak loop of the same process are interleaved with them, and tell the bound. Sequences run
through ``model.generate_batch``, with sampling and tokenizer.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import bitnet_numba
from bench.common import interleaved, options, print_result, print_table
from bench.peak import PeakTest
from bitnet_numba import LanguageModel
from bitnet_numba.backends.cpu.kernels.head.int8_filter import MEMORY_BOUND_TOKENS
from bitnet_numba.backends.cpu.threads.read_test import ReadTest


class Walls(NamedTuple):
    """What the machine can do at best, meanwhile."""

    bytes_per_second: float
    macs_per_second: float


class Work(NamedTuple):
    """Bytes that a step reads, and multiply-adds of int8 for each of its sequences, of one part of the model."""

    n_bytes: float
    macs: float

    def seconds(self, n_sequences: int, walls: Walls) -> float:
        """Return how long that takes at best, by whichever takes longer."""
        return max(self.n_bytes / walls.bytes_per_second, n_sequences * self.macs / walls.macs_per_second)


def tokens_per_second(model: LanguageModel, n_sequences: int, context: int, tokens: int) -> float:
    """Return how many tokens the sequences make a second together, the reading of their prompts not counted.

    That is what a longer run takes more than a shorter one.
    """
    prompts = [[(7 * place + i) % 256 for i in range(context)] for place in range(n_sequences)]

    def seconds(max_tokens: int) -> float:
        started = time.perf_counter()
        model.generate_batch(prompts, max_tokens=max_tokens, ignore_eos=True)
        return time.perf_counter() - started

    few = seconds(2)
    return n_sequences * tokens / (seconds(tokens + 2) - few)


def best_of_three(test: Callable[[], float]) -> float:
    """Measure three times, since threads that have just been woken may begin on one core."""
    return max(test() for _ in range(3))


def bound(model: LanguageModel, n_sequences: int, context: int, walls: Walls) -> float:
    """Return how many tokens a second there can be: of linear layers, the head's int8 copy, keys and values."""
    info, config = model.info(), model.config
    memory = info["memory"]
    codes = 2 if n_sequences <= MEMORY_BOUND_TOKENS else 1  # bytes of an element of the hidden state
    parts = (
        Work(memory["ternary_weights"], info["model"]["ternary_parameters"]),
        Work(memory["head_int8_copy"], codes * config.vocab_size * config.hidden_size),
        Work(n_sequences * context * memory["kv_cache_per_position"], 0),
    )
    return n_sequences / sum(part.seconds(n_sequences, walls) for part in parts)


def measure(
    model: LanguageModel, sizes: list[int], context: int, tokens: int, rounds: int
) -> tuple[dict[int, float], Walls]:
    """Return the tokens a second of each size, and the two walls, all interleaved."""
    tokens_per_second(model, max(sizes), context, 2)
    read, peak = ReadTest(model.threads), PeakTest(model.threads)
    tests = (partial(tokens_per_second, model, size, context, tokens) for size in sizes)
    *speeds, gb_per_second, macs_per_second = interleaved(
        rounds, *tests, *(partial(best_of_three, wall) for wall in (read, peak))
    )
    read.close()
    peak.close()
    return dict(zip(sizes, speeds, strict=True)), Walls(gb_per_second * 1e9, macs_per_second)


def main() -> None:
    """Print a table and a JSON object."""
    parser = options(__doc__)
    parser.add_argument("-m", "--model")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64, help="of each sequence")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    with bitnet_numba.load(arguments.model, threads=arguments.threads, cached_prefixes=0) as model:
        speeds, walls = measure(model, arguments.sizes, arguments.context, arguments.tokens, arguments.rounds)
        looked_back = arguments.context + arguments.tokens // 2
        bounds = {size: bound(model, size, looked_back, walls) for size in speeds}
        result = {
            "tokens_per_second": {size: round(speed, 2) for size, speed in speeds.items()},
            "bound_share": {size: round(speed / bounds[size], 3) for size, speed in speeds.items()},
            "read_gb_per_second": round(walls.bytes_per_second / 1e9, 2),
            "peak_gmacs_per_second": round(walls.macs_per_second / 1e9, 1),
            "context": arguments.context,
            "threads": model.threads,
            "isa": model.isa,
        }
    first, at_best = next(iter(speeds.values())), next(iter(bounds.values()))
    rows = [
        [f"{size}", f"{speed:.1f}", f"{speed / first:.2f}x", f"{best / at_best:.2f}x", f"{speed / best:.0%}"]
        for (size, speed), best in zip(speeds.items(), bounds.values(), strict=True)
    ]
    read, peak = result["read_gb_per_second"], result["peak_gmacs_per_second"]
    print(f"bound by memory, {read:.1f} GB/s at best, and arithmetic, {peak:.0f} G int8/s")
    print_table(["sequences", "tokens/s", "of the first", "at best", "of the bound"], rows)
    print_result(result)


if __name__ == "__main__":
    main()
