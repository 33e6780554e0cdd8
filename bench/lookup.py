"""How much sooner does an answer come that repeats its prompt, when tokens are looked up there?

    python bench/make_model.py 2B-4T /tmp/2b.gguf
    python -m bench.lookup -m /tmp/2b.gguf

A step for one token is bound by memory; one for a few tokens reads the same weights, so what is right among them costs
little; from some number on arithmetic is the bound. Three measurements, each of which takes turns with plain decoding:

- The embedded model goes on with a story that it was told twice. What it says is its own, and must be the same.
- MODEL's steps of 1 to 16 tokens.
- MODEL summarises a text. Random weights cannot, so the answer is dictated: a summary that was written beforehand, in
  the embedded model's tokens. Every step, guess and check is what it would be if the model had chosen these words. The
  speed-up expected of the tokens that the steps had, at the times of such steps, stands beside the one measured.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import bitnet_numba
from bench.common import interleaved, options, print_result, print_table
from bench.dictation import Dictated, DictatedModel
from bench.summary import REQUEST, SUMMARY, TEXT
from bitnet_numba import GenerationResult
from bitnet_numba.options import MAX_DRAFT_TOKENS

Row = dict[str, float | int]

STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the sun. One day, she saw a "
    "big, red ball in the park. She wanted to play with it. "
)
RETOLD = STORY + STORY + "Once upon a time,"
OWN_TOKENS = 96


def own_text(widths: Sequence[int], threads: int | None, rounds: int) -> tuple[bool, list[Row]]:
    """Return whether the embedded model's answers are the same whatever is proposed, and how fast they come."""
    last: dict[int, GenerationResult] = {}
    with bitnet_numba.load(threads=threads, model="demo") as model:

        def tokens_per_second(width: int) -> float:
            last[width] = model.generate(RETOLD, max_tokens=OWN_TOKENS, ignore_eos=True, lookup=width)
            return last[width].generation_tps

        for width in widths:
            tokens_per_second(width)
        speeds = interleaved(rounds, *(lambda width=width: tokens_per_second(width) for width in widths))
    rows: list[Row] = []
    for width, speed in zip(widths, speeds, strict=True):
        result = last[width]
        n_steps = result.generation_tokens - 1 - result.accepted_tokens
        rows.append(_row(width, speed, speeds[0], n_steps, result))
    return all(result.token_ids == last[0].token_ids for result in last.values()), rows


def dictated_summary(
    model: DictatedModel, prompt: Sequence[int], answer: Sequence[int], widths: Sequence[int], rounds: int
) -> tuple[dict[int, float], list[Row]]:
    """Return the seconds of a step by its number of tokens, and how fast a summary comes that is dictated."""
    last: dict[int, Dictated] = {}

    def tokens_per_second(width: int) -> float:
        last[width] = model.answer(prompt, answer, width)
        return last[width].tokens_per_second

    tokens_per_second(widths[-1])
    speeds = interleaved(rounds, *(lambda width=width: tokens_per_second(width) for width in widths))
    seconds = model.step_seconds(prompt, answer, range(1, MAX_DRAFT_TOKENS + 2), rounds)
    rows: list[Row] = []
    for width, speed in zip(widths, speeds, strict=True):
        result = last[width]
        row = _row(width, speed, speeds[0], len(result.widths), result)
        rows.append(row | {"expected_speed_up": round(expected_speed_up(result.widths, len(answer) - 1, seconds), 3)})
    return seconds, rows


def expected_speed_up(widths: Sequence[int], n_tokens: int, seconds: Mapping[int, float]) -> float:
    """Return what steps of so many tokens each gain over as many steps of one token as they gave tokens."""
    return n_tokens * seconds[1] / sum(count * seconds[width] for width, count in Counter(widths).items())


def _row(width: int, speed: float, plain: float, n_steps: int, result: GenerationResult | Dictated) -> Row:
    return {
        "lookup": width,
        "tokens_per_second": round(speed, 2),
        "speed_up": round(speed / plain, 3),
        "steps": n_steps,
        "draft_tokens": result.draft_tokens,
        "accepted_tokens": result.accepted_tokens,
    }


def _print_rows(rows: Sequence[Row]) -> None:
    print_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows])


def main() -> None:
    """Print tables and a JSON object; exit with 1 where the tokens differ."""
    parser = options(__doc__)
    parser.add_argument("-m", "--model", help="whose steps are measured, and to which the summary is dictated")
    parser.add_argument("--lookup", type=int, nargs="+", default=[3, 7, 15], help="most tokens proposed a step")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    widths = [0, *arguments.lookup]
    with bitnet_numba.load("demo", threads=1) as embedded:
        prompt = embedded.tokenize(TEXT + REQUEST)
        answer = embedded.tokenize(SUMMARY, add_bos=False)
    same, own = own_text(widths, arguments.threads, arguments.rounds)
    model = DictatedModel(arguments.model, arguments.threads, len(prompt) + len(answer) + MAX_DRAFT_TOKENS)
    seconds, summary = dictated_summary(model, prompt, answer, widths, arguments.rounds)
    model.close()
    print("bound by memory: a step reads every weight once, for one token or for all that are proposed")
    print(f"\nthe embedded model's own words: {'the same tokens' if same else 'TOKENS DIFFER'}")
    _print_rows(own)
    print("\na step of so many tokens, compared with one of a single token")
    print("  ".join(f"{width}: {time / seconds[1]:.2f}" for width, time in seconds.items()))
    print(f"\na summary of {len(answer)} tokens, dictated, of a text of {len(prompt)}")
    _print_rows(summary)
    print_result(
        {
            "same": same,
            "threads": model.threads,
            "isa": model.isa,
            "own_tokens": OWN_TOKENS,
            "own": own,
            "step_ms": {width: round(1000 * time, 3) for width, time in seconds.items()},
            "summary_tokens": len(answer),
            "text_tokens": len(prompt),
            "summary": summary,
        }
    )
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
