"""How much sooner does an answer come that repeats its prompt, when tokens are looked up there?

    python -m bench.lookup
    python bench/make_model.py 2B-4T /tmp/2b.gguf
    python -m bench.lookup -m /tmp/2b.gguf --tokens 96

A step for one token is bound by memory; one for several tokens reads the same weights, so what is right among them
costs little. Plain decoding and lookup take turns, and must give the same tokens. A model with random weights falls
into loops of its own, which are easily guessed: its figures show what a right guess is worth, not how often one is
right.
"""

import sys

import bitnet_numba
from bench.common import interleaved, options, print_result, print_table
from bitnet_numba import GenerationResult

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the sun. One day, she saw a "
    "big, red ball in the park. She wanted to play with it. "
)


def main() -> None:
    """Print a table and a JSON object; exit with 1 where the tokens differ."""
    parser = options(__doc__)
    parser.add_argument("-m", "--model")
    parser.add_argument("--prompt", default=STORY + STORY + "Once upon a time,", help="what is to be repeated")
    parser.add_argument("--lookup", type=int, nargs="+", default=[3, 7, 15], help="most tokens proposed a step")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    widths = [0, *arguments.lookup]
    last: dict[int, GenerationResult] = {}
    with bitnet_numba.load(arguments.model, threads=arguments.threads) as model:
        prompt = model.tokenize(arguments.prompt)

        def tokens_per_second(width: int) -> float:
            last[width] = model.generate(prompt, max_tokens=arguments.tokens, ignore_eos=True, lookup=width)
            return last[width].generation_tps

        for width in widths:
            tokens_per_second(width)
        speeds = interleaved(arguments.rounds, *(lambda width=width: tokens_per_second(width) for width in widths))
    rows = [
        {
            "lookup": width,
            "tokens_per_second": round(speed, 2),
            "speed_up": round(speed / speeds[0], 3),
            "proposed_tokens": last[width].proposed_tokens,
            "accepted_tokens": last[width].accepted_tokens,
        }
        for width, speed in zip(widths, speeds, strict=True)
    ]
    same = all(result.token_ids == last[0].token_ids for result in last.values())
    print("bound by memory: a step reads every weight once, for one token or for all that are proposed")
    print_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows])
    print("the same tokens" if same else "TOKENS DIFFER")
    print_result({"same": same, "threads": last[0].threads, "isa": last[0].isa, "widths": rows})
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
