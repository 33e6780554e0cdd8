"""What does the number format of keys and values cost in accuracy, and save in time and memory?

    python -m bench.kv
    python bench/make_model.py 2B-4T /tmp/2b.gguf
    python -m bench.kv -m /tmp/2b.gguf --context 2048

Accuracy is that of the embedded model on a text, at every position, against f32: differences of logits, the
Kullback-Leibler divergence of the next token's distribution in nats, and how often the likeliest token is the same.
Speed is that of the model asked for; at a long context it is bound by memory: by weights, keys and values.
"""

import numpy as np
import numpy.typing as npt

import bitnet_numba
from bench.common import interleaved, options, print_result, print_table
from bench.decode import DecodeTest

KV_TYPES = ("f32", "f16", "int8")
TEXT = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the sun. One day, she saw a "
    "big, red ball in the park. She wanted to play with it, but she was too small to reach it. Her friend Max, a big "
    'dog, came to help. Max jumped up and got the ball. Lily was very happy. She said, "Thank you, Max! You are a '
    'good friend." They played with the ball all day. When the sun went down, Lily had to go home. Her mom made soup '
    "for dinner. Lily told her mom about the ball and the dog. Her mom smiled and gave her a hug. The capital of "
    "France is Paris. The capital of Japan is Tokyo. The little bird sat on the tree and sang a song. The wind blew "
    "and the leaves fell down. A boy named Tim found a leaf and put it in his book. He showed it to his teacher. She "
    "said it was a beautiful leaf. Tim was proud. He ran home to tell his dad. "
)

Floats = npt.NDArray[np.float64]


def log_probabilities(logits: npt.NDArray[np.float32]) -> Floats:
    """Return float64[n_tokens, vocab_size] of natural logarithms."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def differences(logits: npt.NDArray[np.float32], exact: npt.NDArray[np.float32]) -> dict[str, float]:
    """Return how far logits ``[n_tokens, vocab_size]`` are from exact ones."""
    distance = np.abs(logits - exact)
    p, q = log_probabilities(exact), log_probabilities(logits)
    divergence = (np.exp(p) * (p - q)).sum(axis=1)
    return {
        "mean_logit_difference": float(distance.mean()),
        "max_logit_difference": float(distance.max()),
        "mean_kl_nats": float(divergence.mean()),
        "max_kl_nats": float(divergence.max()),
        "greedy_agreement": float((logits.argmax(axis=1) == exact.argmax(axis=1)).mean()),
    }


def accuracies() -> tuple[int, list[dict[str, float]]]:
    """Return the number of positions, and the embedded model's differences for each type."""
    logits = []
    for kv_type in KV_TYPES:
        with bitnet_numba.load("demo", kv_type=kv_type) as model:
            ids = model.tokenize(TEXT + TEXT)[: model.max_context]
            logits.append(model.logits(ids))
    return len(ids), [differences(each, logits[0]) for each in logits]


def speeds(path: str | None, threads: int | None, context: int, tokens: int, rounds: int) -> list[dict[str, float]]:
    """Return tokens per second at a context, and bytes of a position, for each type."""
    models = [bitnet_numba.load(path, threads=threads, kv_type=kv_type) for kv_type in KV_TYPES]
    try:
        medians = interleaved(rounds, *(DecodeTest(model, context, tokens, rounds) for model in models))
        return [
            {
                "tokens_per_second": round(speed, 2),
                "bytes_per_position": model.info()["memory"]["kv_cache_per_position"],
            }
            for speed, model in zip(medians, models, strict=True)
        ]
    finally:
        for model in models:
            model.close()


def main() -> None:
    """Print a table and a JSON object."""
    parser = options(__doc__)
    parser.add_argument("-m", "--model", help="whose speed is measured")
    parser.add_argument("--context", type=int, default=384)
    parser.add_argument("--tokens", type=int, default=8, help="a measurement")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    positions, accurate = accuracies()
    fast = speeds(arguments.model, arguments.threads, arguments.context, arguments.tokens, arguments.rounds)
    rows = [{"kv_type": kind, **near, **quick} for kind, near, quick in zip(KV_TYPES, accurate, fast, strict=True)]
    print(f"accuracy: {positions} positions of a text; speed, bound by memory: at context {arguments.context}")
    print_table(list(rows[0]), [[_shown(value) for value in row.values()] for row in rows])
    print_result({"positions": positions, "context": arguments.context, "kv_types": rows})


def _shown(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
