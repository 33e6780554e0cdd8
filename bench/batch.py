"""How many tokens a second do several sequences make together, and what bounds them?

    python bench/make_model.py 2B-4T /tmp/2b.gguf
    python -m bench.batch -m /tmp/2b.gguf --sizes 1 4 8 16

A step reads the weights once for all sequences: up to a few of them, memory is the bound, and another sequence costs
nothing; from there on it is arithmetic. Sequences run through ``model.generate_batch``, with sampling and tokenizer.
"""

import argparse
import json
import time
from statistics import median

import bitnet_numba
from bitnet_numba import LanguageModel


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


def main() -> None:
    """Print a table and a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64, help="of each sequence")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    with bitnet_numba.load(arguments.model, threads=arguments.threads, kept_prefixes=0) as model:
        tokens_per_second(model, max(arguments.sizes), arguments.context, 2)
        speeds: dict[int, list[float]] = {size: [] for size in arguments.sizes}
        for _ in range(arguments.rounds):  # interleaved, since machines are noisy
            for size, measured in speeds.items():
                measured.append(tokens_per_second(model, size, arguments.context, arguments.tokens))
        result = {
            "tokens_per_second": {size: round(median(measured), 2) for size, measured in speeds.items()},
            "context": arguments.context,
            "threads": model.threads,
            "isa": model.isa,
        }
    single = median(speeds[arguments.sizes[0]])
    print(f"{'sequences':>10} {'tokens/s':>10} {'of the first':>12}")
    for size, measured in speeds.items():
        print(f"{size:>10} {median(measured):>10.1f} {median(measured) / single:>11.2f}x")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
