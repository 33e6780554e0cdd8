"""A stand-in for a loaded model, which answers from a script and records what it was asked."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import pytest

import bitnet_numba
from bitnet_numba.errors import ResourceError


@dataclass(frozen=True)
class FakeResult:
    """The keys of a ``GenerationResult``."""

    text: str
    token_ids: list[int]
    prompt_tokens: int
    finish_reason: str = "stop"
    logprobs: None = None
    generation_tokens: int = 3
    cached_tokens: int = 0
    prompt_tps: float = 100.0
    generation_tps: float = 50.0
    first_token_ms: float = 12.0
    load_ms: float = 5.0
    peak_memory_mb: float = 60.0
    kernels: dict[str, int] = field(default_factory=dict)
    threads: int = 2
    isa: str = "generic"
    head: str = "exact"
    rescored_rows: int = 7
    draft_tokens: int = 0
    accepted_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class FakeChunk:
    """A piece of text; the last one comes with the result."""

    text: str
    result: FakeResult | None = None


class FakeModel:
    """Say the pieces given; token ids are the code points of the text."""

    max_context = 100

    def __init__(self, pieces: Sequence[str] = (" Paris", ".", "\nYes"), notes: tuple[str, ...] = ()) -> None:
        self.pieces = pieces
        self.notes = notes
        self.corrections: list[dict[str, Any]] = []
        self.loaded_with: dict[str, Any] = {}
        self.sampling: dict[str, Any] = {}
        self.prompts: list[str] = []
        self.conversations: list[list[dict[str, str]]] = []
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def tokenize(self, text: str, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        bos = [0x1] if add_bos else []
        return bos + [ord(char) for char in (text.replace("<|eot_id|>", "\x04") if parse_special else text)]

    def detokenize(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def chat_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        self.conversations.append(list(messages))
        return self.tokenize("".join(f"{turn['role']}: {turn['content']}\n" for turn in messages))

    def stream(self, prompt: Sequence[int], **sampling: Any) -> Iterator[FakeChunk]:
        if len(prompt) > self.max_context:
            raise ResourceError(f"{len(prompt)} tokens do not fit the context of {self.max_context}; shorten it")
        self.prompts.append(self.detokenize(prompt))
        self.sampling = sampling
        text = "".join(self.pieces)
        for piece in self.pieces:
            yield FakeChunk(piece)
        yield FakeChunk("", FakeResult(text, [ord(char) for char in text], len(prompt)))

    def stream_chat(self, messages: Sequence[dict[str, str]], **sampling: Any) -> Iterator[FakeChunk]:
        yield from self.stream(self.chat_ids(messages), **sampling)

    def generate(self, prompt: Sequence[int], **sampling: Any) -> FakeResult:
        *_, last = self.stream(prompt, **sampling)
        assert last.result is not None
        return last.result

    def logits(self, ids: Sequence[int]) -> Any:
        assert len(ids) <= self.max_context
        return np.outer(np.asarray(ids, np.float32), np.ones(4, np.float32))


def install(patch: pytest.MonkeyPatch, model: FakeModel) -> None:
    """Make ``bitnet_numba.load`` return the fake, and let its kernels lie ready."""

    def load(name: str | None = None, **options: Any) -> FakeModel:
        model.loaded_with = {"model": name, **options} if name is not None else options
        return model

    patch.setattr(bitnet_numba, "load", load)
    patch.setattr("bitnet_numba.backends.cpu.compiler.kernel_cache.is_warm", lambda: True)
