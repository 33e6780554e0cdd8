"""The one kind of fake: a backend and a tokenizer of a few lines under the real ``Engine`` and ``LanguageModel``.

``ScriptedModel`` is what the command line is tested with: it answers from a script and records what it was asked.
"""

import codecs
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bitnet_numba.backends.numpy.sampling import NumPySampling
from bitnet_numba.backends.protocol import Candidates, Rivals, TokenChunk
from bitnet_numba.generate.engine import Engine
from bitnet_numba.generate.language_model import LanguageModel, Messages, TokenIds
from bitnet_numba.generate.result import Chunk, GenerationResult
from bitnet_numba.generate.sequence import Sequence as RunningSequence
from bitnet_numba.options import SamplingParams

BOS, EOS, TURN_END = 256, 257, 258
VOCAB_SIZE = 260
CONTEXT = 64
GEMV, GEMM, SOFTMAX = KERNEL_NAMES = ("fake_gemv", "fake_gemm", "fake_softmax")

Floats = NDArray[np.float32]
LogitsOf = Callable[[Sequence[int]], Floats]


# ---- text ------------------------------------------------------------------------------------------------------------
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


# ---- the backend -----------------------------------------------------------------------------------------------------
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
        assert 0 <= length <= len(self.tokens)
        del self.tokens[length:]

    def resize(self, capacity: int) -> None:
        assert capacity >= len(self.tokens)
        self.capacity = capacity

    def fork(self, capacity: int, length: int) -> "FakeCache":
        return FakeCache(capacity, self.tokens[:length])


class FakeBackend:
    """Logits are a function of the tokens so far; notes its steps, and can be held up before one.

    Attributes
    ----------
    steps : list of list of int
        Number of tokens of each chunk of each step.
    may_begin, has_begun : threading.Event
        A step waits for the first one, and sets the second one when it begins.
    """

    threads = 2
    threads_reason = "a fake"
    isa = "fake"
    head = "full"
    kernel_names = KERNEL_NAMES

    def __init__(self, logits_of: LogitsOf, max_context: int = CONTEXT) -> None:
        self.config = SimpleNamespace(vocab_size=VOCAB_SIZE, max_seq_len=max(CONTEXT, max_context))
        self.max_context = max_context
        self.caches: list[FakeCache] = []
        self.steps: list[list[int]] = []
        self.may_begin, self.has_begun = threading.Event(), threading.Event()
        self.may_begin.set()
        self.closed = 0
        self._counts = np.zeros(len(KERNEL_NAMES), np.int64)
        self._logits_of = logits_of

    def new_cache(self, capacity: int) -> FakeCache:
        self.caches.append(FakeCache(capacity))
        return self.caches[-1]

    def forward(self, chunks: Sequence[TokenChunk[FakeCache]]) -> list[list[Candidates]]:
        self.steps.append([chunk.tokens.size for chunk in chunks])
        self.has_begun.set()
        assert self.may_begin.wait(60)
        for tokens, cache, _, _ in chunks:
            if tokens.dtype != np.int32 or tokens.ndim != 1 or cache.length + tokens.size > cache.capacity:
                raise ValueError(f"{tokens.dtype}{tokens.shape} do not fit {cache}")
        rows = [self._run(chunk) for chunk in chunks]
        self._counts[KERNEL_NAMES.index(GEMM if sum(self.steps[-1]) > 1 else GEMV)] += 1
        return rows

    def _run(self, chunk: TokenChunk[FakeCache]) -> list[Candidates]:
        rows = []
        for index, token in enumerate(chunk.tokens.tolist()):
            chunk.cache.tokens.append(token)
            logits = self._logits_of(chunk.cache.tokens)
            if index >= chunk.tokens.size - chunk.n_logits:
                rows.append(Candidates(logits))
        return rows

    def counts(self) -> NDArray[np.int64]:
        return self._counts.copy()

    def softmax(self, logits: Floats, counts: NDArray[np.int64]) -> Floats:
        counts[KERNEL_NAMES.index(SOFTMAX)] += 1
        terms = np.exp(logits.astype(np.float64) - logits.max())
        return (terms / terms.sum()).astype(np.float32)

    def exp(self, x: Floats, counts: NDArray[np.int64]) -> Floats:
        counts[KERNEL_NAMES.index(SOFTMAX)] += 1
        return np.where(x >= -64, np.exp(x), 0).astype(np.float32)

    def mark_favoured(self, random_offset: int, sample_time: float, marks: NDArray[np.uint8]) -> None:
        NumPySampling().mark_favoured(random_offset, sample_time, marks)

    def exponential_race(
        self, weights: NDArray[np.float64], ids: NDArray[np.int64] | None, random_offset: int
    ) -> Rivals:
        return NumPySampling().exponential_race(weights, ids, random_offset)

    def memory(self, prefix_pages: int) -> dict[str, Any]:
        return {"prefix_pages": prefix_pages}

    def close(self) -> None:
        self.closed += 1


def random_logits(tokens: Sequence[int]) -> Floats:
    """Logits that look random, bytes of English letters being likelier than special tokens."""
    rng = np.random.default_rng(list(tokens))
    logits = rng.standard_normal(VOCAB_SIZE).astype(np.float32)
    logits[97:123] += 4
    return logits


def always_answering(answer: Sequence[int], prompt_tokens: int) -> LogitsOf:
    """Logits whose likeliest tokens are those of ``answer``, one after the other."""

    def logits_of(tokens: Sequence[int]) -> Floats:
        logits = np.zeros(VOCAB_SIZE, np.float32)
        index = len(tokens) - prompt_tokens
        logits[answer[index] if 0 <= index < len(answer) else EOS] = 5
        return logits

    return logits_of


# ---- running it ------------------------------------------------------------------------------------------------------
def sequence_of(
    engine: Engine, prompt: Sequence[int], eos_ids: frozenset[int] = frozenset(), **params: Any
) -> RunningSequence:
    """A new sequence of an engine, whose text is its tokens' bytes."""
    return engine.sequence(prompt, SamplingParams(**params), eos_ids=eos_ids, decoder=ByteDecoder())


def generated(
    engine: Engine, prompt: Sequence[int], eos_ids: frozenset[int] = frozenset(), **params: Any
) -> GenerationResult:
    """Run one sequence to its end."""
    return engine.generate([sequence_of(engine, prompt, eos_ids, **params)])[0]


def model_that_says(
    answer: str | Sequence[int], prompt_tokens: int = 3, max_context: int = CONTEXT, **arguments: Any
) -> LanguageModel:
    """A model that answers prompts of ``prompt_tokens`` tokens with ``answer`` and an end-of-sequence token."""
    ids = list(answer.encode()) if isinstance(answer, str) else list(answer)
    return fake_model(FakeBackend(always_answering(ids, prompt_tokens), max_context), **arguments)


def fake_model(backend: FakeBackend, cached_prefixes: int = 4, **arguments: Any) -> LanguageModel:
    engine = Engine(backend, cached_prefixes=cached_prefixes, load_ms=12.5)
    return LanguageModel(engine, ByteTokenizer(), encode_chat, **arguments)


def encode_chat(messages: Messages) -> list[int]:
    return ByteTokenizer().encode("".join(f"{message['role']}:{message['content']}\n" for message in messages))


class ScriptedModel(LanguageModel):
    """Gives the same answer to every prompt, one prompt at a time, and records what it was asked.

    Attributes
    ----------
    backend : FakeBackend
    prompts : list of list of int
        Token ids of each prompt.
    conversations : list of list of messages
        Messages of each prompt that the chat template wrote.
    sampling : dict of str to object
        Sampling arguments of the last generation.
    loaded_with : dict of str to object
        Arguments of the ``bitnet_numba.load`` that this model stands in for.
    results : list of GenerationResult
        What ``generate`` returned.
    """

    def __init__(self, answer: str, max_context: int = CONTEXT, *, backend: type[FakeBackend] = FakeBackend) -> None:
        self.backend = backend(self._logits, max_context)
        super().__init__(Engine(self.backend, load_ms=12.5), ByteTokenizer(), self._record_chat)
        self.prompts: list[list[int]] = []
        self.conversations: list[list[Mapping[str, str]]] = []
        self.sampling: dict[str, Any] = {}
        self.loaded_with: dict[str, Any] = {}
        self.results: list[GenerationResult] = []
        self._answer = answer.encode()

    def generate(
        self, prompt: str | TokenIds, params: SamplingParams | None = None, **arguments: Any
    ) -> GenerationResult:
        self._record_prompt(prompt, arguments)
        self.results.append(super().generate(prompt, params, **arguments))
        return self.results[-1]

    def stream(self, prompt: str | TokenIds, params: SamplingParams | None = None, **arguments: Any) -> Iterator[Chunk]:
        self._record_prompt(prompt, arguments)
        return super().stream(prompt, params, **arguments)

    def _record_prompt(self, prompt: str | TokenIds, arguments: Mapping[str, Any]) -> None:
        self.prompts.append(self.tokenize(prompt) if isinstance(prompt, str) else [int(token) for token in prompt])
        self.sampling = {name: value for name, value in arguments.items() if name != "on_progress"}

    def _record_chat(self, messages: Messages) -> list[int]:
        self.conversations.append(list(messages))
        return encode_chat(messages)

    def _logits(self, tokens: Sequence[int]) -> Floats:
        return always_answering(self._answer, len(self.prompts[-1]) if self.prompts else 0)(tokens)


class Asking:
    """A thread that runs one sequence to its end.

    Attributes
    ----------
    result : GenerationResult
    failure : BaseException or None
    """

    result: GenerationResult

    def __init__(self, engine: Engine, prompt: Sequence[int], **params: Any) -> None:
        self.failure: BaseException | None = None
        self.sequence = sequence_of(engine, prompt, **{"max_tokens": 1, **params})

        def ask() -> None:
            try:
                self.result = engine.generate([self.sequence])[0]
            except BaseException as failure:  # handed on
                self.failure = failure

        self._thread = threading.Thread(target=ask)
        self._thread.start()

    def wait(self) -> "Asking":
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self


def held_up(backend: FakeBackend, engine: Engine) -> Asking:
    """Begin a step that goes on until the backend may go on."""
    backend.may_begin.clear()
    first = Asking(engine, [1])
    assert backend.has_begun.wait(60)
    return first


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("nothing happened for a minute")
