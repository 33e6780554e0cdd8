"""Small tokenizers for tests: the demonstration model's as GGUF arrays, and a SentencePiece vocabulary."""

import json
from pathlib import Path
from typing import Any

DEMO_DIRECTORY = Path(__file__).parents[2] / "bench" / "demo_model" / "checkpoint"


def demo_metadata() -> dict[str, Any]:
    """Return the demonstration model's tokenizer as a GGUF file holds it."""
    document = json.loads((DEMO_DIRECTORY / "tokenizer.json").read_text())
    texts = {token_id: text for text, token_id in document["model"]["vocab"].items()}
    texts |= {entry["id"]: entry["content"] for entry in document["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [texts[i] for i in range(len(texts))],
        "tokenizer.ggml.token_type": [1] * 4092 + [3] * 4,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in document["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 4092,
        "tokenizer.ggml.eos_token_id": 4093,
        "tokenizer.ggml.add_bos_token": True,
    }


def sentencepiece_metadata(pieces: list[str], scores: list[float]) -> dict[str, Any]:
    """Return a SentencePiece vocabulary: unknown, begin, end, 256 bytes, then ``pieces`` with their scores."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *byte_tokens, *pieces],
        "tokenizer.ggml.scores": [0.0] * 259 + scores,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
