"""How much sooner is a receipt replayed than its answer was generated, and what does recording cost?

    python bench/make_model.py 2B-4T /tmp/2b.gguf
    python -m bench.replay -m /tmp/2b.gguf

Three answers, greedy and drawn: generated without recording, generated with it, and replayed; they take turns. A replay
runs 16 tokens a step, so it reads the weights once for them. Making the receipt of an answer, without hashing the
model's file, is timed apart.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import bitnet_numba
from bench.common import interleaved, options, print_result, print_table
from bitnet_numba import GenerationResult, LanguageModel
from bitnet_numba.evidence.documents import dump
from bitnet_numba.evidence.facts import identify
from bitnet_numba.evidence.receipt import make_receipt
from bitnet_numba.evidence.replay import replay

PROMPT = "Once upon a time"
SAMPLINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "top_p 0.9": {"temperature": 0.8, "top_p": 0.9, "seed": 1},
    "temperature": {"temperature": 0.8, "seed": 1},
}


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(model: LanguageModel, sampling: dict[str, Any], tokens: int, rounds: int) -> dict[str, float | bool]:
    """Return seconds of generating, recording and replaying an answer, and of making its receipt."""
    arguments = {**sampling, "max_tokens": tokens, "ignore_eos": True}
    recorded: GenerationResult = model.generate(PROMPT, record=True, **arguments)
    identity = identify(model)
    receipt = make_receipt(model, identity, recorded)
    plain, with_record, replayed, receipt_seconds = interleaved(
        rounds,
        lambda: seconds(lambda: model.generate(PROMPT, **arguments)),
        lambda: seconds(lambda: model.generate(PROMPT, record=True, **arguments)),
        lambda: seconds(lambda: replay(receipt, model, identity)),
        lambda: seconds(lambda: dump(make_receipt(model, identity, recorded))),
    )
    return {
        "generate_s": round(plain, 4),
        "record_s": round(with_record, 4),
        "replay_s": round(replayed, 4),
        "receipt_ms": round(1000 * receipt_seconds, 3),
        "receipt_share": round(receipt_seconds / plain, 5),
        "speed_up": round(plain / replayed, 2),
        "confirmed": replay(receipt, model, identity).confirmed,
    }


def main() -> int:
    """Print a table and one JSON object."""
    parser = options(__doc__)
    parser.add_argument("-m", "--model", default="demo")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with bitnet_numba.load(arguments.model, threads=arguments.threads, cached_prefixes=0) as model:
        found = {name: measure(model, each, arguments.tokens, arguments.rounds) for name, each in SAMPLINGS.items()}
    print("bound: generating by memory, a step a token; replaying by memory and arithmetic, a step 16 tokens")
    columns = ("generate_s", "record_s", "replay_s", "speed_up", "receipt_ms", "receipt_share")
    print_table(("sampling", *columns), [(name, *(str(row[c]) for c in columns)) for name, row in found.items()])
    print_result({"tokens": arguments.tokens, "samplings": found})
    return 0 if all(row["confirmed"] for row in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
