"""The real Llama-3 vocabulary as GGUF metadata, from the packages that carry it."""

import functools
from typing import Any

import pytest

from bitnet_numba.text.vocabulary import spelling_of_bytes


@functools.cache
def reference() -> Any:
    """Return Meta's own encoding; skip the test where its package is missing."""
    pytest.importorskip("tiktoken")
    module = pytest.importorskip("llama_models.llama3.tokenizer")
    return module.Tokenizer.get_instance().model


@functools.cache
def metadata() -> dict[str, Any]:
    """Return the tokenizer's keys as the official 2B-4T file has them: ``pre`` is missing there."""
    encoding = reference()
    ranks = encoding._mergeable_ranks
    tokens = [spelling_of_bytes(token) for token in sorted(ranks, key=ranks.__getitem__)]
    special = sorted(encoding._special_tokens, key=encoding._special_tokens.__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens + special,
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3] * len(special),
        "tokenizer.ggml.merges": _merges(ranks),
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.eos_token_id": len(tokens) + 1,
        "tokenizer.ggml.add_bos_token": True,
    }


def _merges(ranks: dict[bytes, int]) -> list[str]:
    """Return every way to join two tokens to a third, by the third's rank."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        cuts.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [f"{spelling_of_bytes(left)} {spelling_of_bytes(right)}" for left, right in cuts]
    return merges
