"""A transformer and a tokenizer of a few lines, which follow the protocols of the real ones."""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.backends.cpu.candidates import HeadType, Rows, Screening
from bitnet_numba.backends.cpu.kernels.jit import KERNELS, TERNARY_GEMM, TERNARY_GEMV, new_counts
from bitnet_numba.generate.language_model import LanguageModel

BOS, EOS, TURN_END = 256, 257, 258
VOCAB_SIZE = 260
CONTEXT = 64


class ByteTokenizer:
    """A token for each byte, and three special ones."""

    eos_ids = frozenset({EOS, TURN_END})

    def encode(self, text: str, *, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        parts = text.split("<end>") if parse_special else [text]
        ids = [BOS] if add_bos else []
        for i, part in enumerate(parts):
            ids += [TURN_END] * (i > 0) + list(part.encode())
        return ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return bytes(token_id for token_id in ids if token_id < 256).decode(errors="replace")

    def stream_decoder(self) -> "ByteDecoder":
        return ByteDecoder()


class ByteDecoder:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        return self._decoder.decode(bytes([token_id])) if token_id < 256 else ""

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


@dataclass
class FakeCache:
    """Remembers the tokens themselves, and refuses more than it was made for."""

    capacity: int
    tokens: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def pages(self) -> list[Any]:
        return [self]

    def truncate(self, length: int) -> None:
        del self.tokens[length:]

    def resize(self, capacity: int) -> None:
        self.capacity = capacity

    def fork(self, capacity: int, length: int) -> "FakeCache":
        return FakeCache(capacity, self.tokens[:length])


GEMV, GEMM = KERNELS[TERNARY_GEMV], KERNELS[TERNARY_GEMM]
LogitsOf = Callable[[Sequence[int]], NDArray[np.float32]]


class FakeTransformer:
    """Logits are a function of the tokens so far."""

    threads = 2
    isa = "fake"
    head: HeadType = "f16"

    def __init__(self, logits_of: LogitsOf) -> None:
        self.config = SimpleNamespace(vocab_size=VOCAB_SIZE, max_seq_len=CONTEXT)
        self.caches: list[FakeCache] = []
        self.closed = 0
        self.counts = new_counts()
        self._logits_of = logits_of

    def new_cache(self, n_positions: int) -> FakeCache:
        self.caches.append(FakeCache(n_positions))
        return self.caches[-1]

    def forward_batch(self, pieces: Sequence[Any]) -> tuple[Rows, list[Screening]]:
        for tokens, cache, _, _ in pieces:
            if tokens.dtype != np.int32 or tokens.ndim != 1 or cache.length + tokens.size > cache.capacity:
                raise ValueError(f"{tokens.dtype}{tokens.shape} do not fit {cache}")
        rows = []
        for tokens, cache, n_logits, _ in pieces:
            for place, token in enumerate(tokens):
                cache.tokens.append(int(token))
                logits = self._logits_of(cache.tokens)
                if place >= tokens.size - n_logits:
                    rows.append(logits)
        self.counts[TERNARY_GEMM if sum(piece.tokens.size for piece in pieces) > 1 else TERNARY_GEMV] += 1
        return np.stack([np.zeros(VOCAB_SIZE, np.float32), *rows])[1:], [Screening()] * len(rows)

    def kernel_counts(self) -> NDArray[np.int64]:
        return self.counts.copy()

    def close(self) -> None:
        self.closed += 1


def random_logits(tokens: Sequence[int]) -> NDArray[np.float32]:
    """Logits that look random, bytes of English letters being likelier than special tokens."""
    rng = np.random.default_rng(list(tokens))
    logits = rng.standard_normal(VOCAB_SIZE).astype(np.float32)
    logits[97:123] += 4
    return logits


def always_answering(answer: Sequence[int], prompt_tokens: int) -> LogitsOf:
    """Logits whose likeliest tokens are those of ``answer``, one after the other."""

    def logits_of(tokens: Sequence[int]) -> NDArray[np.float32]:
        logits = np.zeros(VOCAB_SIZE, np.float32)
        place = len(tokens) - prompt_tokens
        logits[answer[place] if 0 <= place < len(answer) else EOS] = 5
        return logits

    return logits_of


def model_that_says(answer: str | Sequence[int], prompt_tokens: int = 3, **arguments: object) -> LanguageModel:
    """A model that answers prompts of ``prompt_tokens`` tokens with ``answer`` and an end-of-sequence token."""
    ids = list(answer.encode()) if isinstance(answer, str) else list(answer)
    return fake_model(FakeTransformer(always_answering(ids, prompt_tokens)), **arguments)


def fake_model(transformer: FakeTransformer, **arguments: object) -> LanguageModel:
    tokenizer = ByteTokenizer()

    def encode_chat(messages: Sequence[dict[str, str]]) -> list[int]:
        text = "".join(f"{message['role']}:{message['content']}\n" for message in messages)
        return tokenizer.encode(text)

    return LanguageModel(transformer, tokenizer, encode_chat, **{"load_ms": 12.5, **arguments})
