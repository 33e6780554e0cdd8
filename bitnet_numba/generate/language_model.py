"""A loaded model, as Python programs use it."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, Unpack

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.declare import from_arguments
from bitnet_numba.errors import ParameterError
from bitnet_numba.generate.engine import Engine
from bitnet_numba.generate.result import Chunk, GenerationResult
from bitnet_numba.generate.sampling.logits_processors import LogitsProcessor
from bitnet_numba.generate.sequence import Sequence as RunningSequence
from bitnet_numba.generate.speculation import Drafter
from bitnet_numba.model.config import ModelConfig
from bitnet_numba.options import SamplingArguments, SamplingParams
from bitnet_numba.settings import read_settings
from bitnet_numba.text.tokenizer import Tokenizer

TokenIds = Sequence[int] | NDArray[np.integer[Any]]
Messages = Sequence[Mapping[str, str]]
Progress = Callable[[int, int], None]


class GenerateArguments(SamplingArguments, total=False):
    """The keyword arguments of :meth:`LanguageModel.generate`."""

    record: bool
    logits_processors: Sequence[LogitsProcessor]
    on_progress: Progress | None


class LanguageModel:
    """A loaded model; :func:`bitnet_numba.load` makes it.

    Python threads may share one model, and several streams may be open at once: their sequences share the engine's
    steps. Use it in a ``with`` statement, or call :meth:`close`.

    Attributes
    ----------
    engine : Engine
        Runs the sequences: a server adds its own and calls :meth:`Engine.step`.
    tokenizer : Tokenizer
    load_ms : float
        Milliseconds that loading took.
    notes : tuple of str
        What the user should know about how the model was read.
    corrections : list of dict
        Corrections made to the weights at load, if the environment requested and allowed them.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        encode_chat: Callable[[Messages], list[int]],
        *,
        notes: Sequence[str] = (),
        info: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Take over the engine; ``encode_chat`` renders messages to token ids that end where the answer starts."""
        self.engine = engine
        self.tokenizer = tokenizer
        self._encode_chat = encode_chat
        self.load_ms = engine.load_ms
        self.notes = tuple(notes)
        self._info = {section: dict(facts) for section, facts in (info or {}).items()}
        self.corrections: list[dict[str, Any]] = self._info.get("model", {}).get("corrections", [])

    @property
    def config(self) -> ModelConfig:
        """The model's hyper-parameters."""
        return self.engine.backend.config

    @property
    def max_context(self) -> int:
        """Longest sequence, in positions."""
        return self.engine.backend.max_context

    @property
    def threads(self) -> int:
        """Threads that share the work of a step."""
        return self.engine.backend.threads

    @property
    def isa(self) -> str:
        """Instruction set that the kernels were compiled for."""
        return self.engine.backend.isa

    @property
    def kv_type(self) -> str:
        """Number format of the KV cache."""
        return self.engine.backend.kv_type

    @property
    def prefix_cache_bytes(self) -> int:
        """Bytes of keys and values in the prefix cache."""
        return self.engine.prefixes.n_bytes

    def generate(
        self,
        prompt: str | TokenIds,
        params: SamplingParams | None = None,
        *,
        record: bool = False,
        logits_processors: Sequence[LogitsProcessor] = (),
        on_progress: Progress | None = None,
        **sampling: Unpack[SamplingArguments],
    ) -> GenerationResult:
        """Continue a prompt.

        Parameters
        ----------
        prompt : str or sequence of int
            Text, in which special tokens are plain text, or token ids.
        params : SamplingParams, optional
            In place of keywords.
        record : bool
            Whether the result has the ``record`` that a receipt is made of.
        logits_processors : sequence of callable
            Each takes the ids of prompt and answer so far and the logits, float32[vocab_size], which it may change, and
            returns the logits that count; minus infinity forbids a token. They need all logits: without them the head
            computes the likely ones alone, about a tenth of a token's time on the 2B model.
        on_progress : callable, optional
            Called after each step of the prompt with the number of its tokens that were read, and that of all; what it
            raises ends the generation.
        **sampling
            Fields of :class:`SamplingParams`. Without a ``seed``, ``BITNET_SEED`` counts where the environment sets it.

        Raises
        ------
        ParameterError
            If the prompt is empty or holds an id outside the vocabulary, or a sampling parameter is unknown or out of
            range.
        ResourceError
            If the prompt does not fit the context, or memory does not allow the cache.
        NonFiniteError
            If a number becomes infinite or NaN.
        """
        sequence = self.new_sequence(
            self._prompt_ids(prompt),
            _params(params, sampling),
            record=record,
            logits_processors=logits_processors,
            on_progress=on_progress,
        )
        return self.engine.generate([sequence])[0]

    def generate_batch(
        self,
        prompts: Sequence[str | TokenIds],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        n: int = 1,
        record: bool = False,
        logits_processors: Sequence[LogitsProcessor] = (),
        **sampling: Unpack[SamplingArguments],
    ) -> list[GenerationResult]:
        """Continue several prompts at the same time; each result is the one that :meth:`generate` gives.

        Together they take far less time than one after the other: a step reads the weights once for all of them. Takes
        and raises what :meth:`generate` does, before anything is computed; ``params`` may be a list with those of each
        prompt. Results are in the order of the prompts. Where steps were shared, ``kernels`` counts each one's calls in
        full, and speeds are those of the one sequence.

        ``n`` answers are drawn for each prompt, which stand side by side: with a ``seed``, the one with index i is that
        of ``seed + i``.
        """
        sequences = self._new_batch(prompts, params, sampling, n, record, logits_processors)
        return self.engine.generate(sequences)

    def stream_batch(
        self,
        prompts: Sequence[str | TokenIds],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        n: int = 1,
        record: bool = False,
        logits_processors: Sequence[LogitsProcessor] = (),
        **sampling: Unpack[SamplingArguments],
    ) -> Iterator[tuple[int, Chunk]]:
        """Continue several prompts at the same time, chunk by chunk, each with the index of its result.

        Takes and raises what :meth:`generate_batch` does, at once. It may be left at any time.
        """
        return self.engine.stream_batch(self._new_batch(prompts, params, sampling, n, record, logits_processors))

    def stream(
        self,
        prompt: str | TokenIds,
        params: SamplingParams | None = None,
        *,
        record: bool = False,
        logits_processors: Sequence[LogitsProcessor] = (),
        on_progress: Progress | None = None,
        **sampling: Unpack[SamplingArguments],
    ) -> Iterator[Chunk]:
        """Continue a prompt chunk by chunk.

        Takes and raises what :meth:`generate` does, at once. A stream may be left at any time. The ``text`` of all
        chunks together is the text of the whole; the last one also has the ``result``.
        """
        sequence = self.new_sequence(
            self._prompt_ids(prompt),
            _params(params, sampling),
            record=record,
            logits_processors=logits_processors,
            on_progress=on_progress,
        )
        return self.engine.stream(sequence)

    def chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        prefill: str = "",
        **arguments: Unpack[GenerateArguments],
    ) -> GenerationResult:
        """Answer the last turn of a conversation.

        Each message has a ``"role"`` (``"system"``, ``"user"`` or ``"assistant"``) and its ``"content"``, in which
        special tokens are plain text. ``prefill`` is how the answer begins; the result has what comes after it. Takes
        and raises what :meth:`generate` does, and a TemplateError if the chat template cannot write these messages.
        """
        return self.generate(self.chat_ids(messages, prefill), params, **arguments)

    def stream_chat(
        self,
        messages: Messages,
        params: SamplingParams | None = None,
        *,
        prefill: str = "",
        **arguments: Unpack[GenerateArguments],
    ) -> Iterator[Chunk]:
        """Answer the last turn of a conversation chunk by chunk: to :meth:`chat` what :meth:`stream` is to generate."""
        return self.stream(self.chat_ids(messages, prefill), params, **arguments)

    def chat_ids(self, messages: Messages, prefill: str = "") -> list[int]:
        """Write a conversation as token ids, up to where the answer goes on; takes and raises what chat does."""
        if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
            raise ParameterError("messages: expected a list of at least one mapping of 'role' and 'content'")
        ids = self._encode_chat(messages)
        if not ids:
            raise ParameterError("messages: the chat template makes no tokens of them; write something in them")
        return [*ids, *self.tokenize(prefill, add_bos=False)] if prefill else ids

    def logits(self, token_ids: TokenIds, chunk_size: int | None = None, *, last: bool = False) -> NDArray[np.float32]:
        """Compute the logits after each of T tokens, at least one, as float32[T, vocab_size].

        Parameters
        ----------
        last : bool
            Only those after the last token, float32[vocab_size]: for a large vocabulary the others are most of the work
            and of the memory.
        chunk_size : int, optional
            Read that many tokens a step, at most; 1 is how an answer is generated without speculation. The result does
            not depend on it.

        Raises
        ------
        ParameterError
            If ids or chunk size are out of range.
        ResourceError
            If the tokens do not fit the context, or memory does not allow cache or result.
        """
        ids = np.asarray(self._checked_ids(token_ids), np.int32)
        step = ids.size if chunk_size is None else chunk_size
        if not _is_integer(step) or step < 1:
            raise ParameterError(f"chunk_size={chunk_size!r}: expected a whole number of at least 1, or None for all")
        logits = self.engine.logits(ids, step, 1 if last else None)
        return logits[0] if last else logits

    def prompt_logprobs(self, prompt: str | TokenIds, n_last: int | None = None) -> NDArray[np.float64]:
        """Compute the log probability of each token of a prompt after those before it, float64[T - 1].

        The first of T tokens has none. Memory holds the logits of one step, up to 256 tokens, at a time.

        Parameters
        ----------
        prompt : str or sequence of int
            At least two tokens.
        n_last : int, optional
            Only those of the last tokens, float64[n_last]: the others are read without computing their logits.

        Raises
        ------
        ParameterError
            If there are fewer than two tokens, or ``n_last`` is not from 1 to T - 1.
        ResourceError
            If the tokens do not fit the context, or memory does not allow the cache.
        """
        ids = np.asarray(self._prompt_ids(prompt), np.int32)
        wanted = ids.size - 1 if n_last is None else n_last
        if ids.size < 2:
            raise ParameterError("the prompt has one token; a log probability needs one before it: give two")
        if not _is_integer(wanted) or not 1 <= wanted < ids.size:
            raise ParameterError(f"n_last={n_last!r}: expected a whole number from 1 to {ids.size - 1}")
        return self.engine.logprobs(ids, wanted)

    def tokenize(self, text: str, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """Turn text into token ids.

        ``add_bos`` begins with the beginning-of-sequence token, if the model uses one. ``parse_special`` reads the
        names of special tokens, such as ``<|eot_id|>``, as these tokens: never do that with a stranger's text.
        """
        return self.tokenizer.encode(text, add_bos=add_bos, parse_special=parse_special)

    def detokenize(self, ids: TokenIds) -> str:
        """Turn token ids into text; special tokens have none. ParameterError if an id is not in the vocabulary."""
        return self.tokenizer.decode(self._checked_ids(ids)) if len(ids) else ""

    def info(self) -> dict[str, dict[str, Any]]:
        """Return facts about the model, as JSON can hold them: by section, such as its sizes and its memory plan."""
        return {section: dict(facts) for section, facts in self._info.items()}

    def close(self) -> None:
        """Give threads and memory back; whoever uses the model afterwards gets a BitNetError."""
        self.engine.close()

    def __repr__(self) -> str:
        config = self.config
        state = "closed" if self.engine.is_closed else f"{self.isa}, {self.threads} threads"
        return f"<LanguageModel {config.name!r}: {config.architecture}, {config.n_layers} layers, {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def new_sequence(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        *,
        answer: Sequence[int] = (),
        drafter: Drafter | None = None,
        record: bool = False,
        logits_processors: Sequence[LogitsProcessor] = (),
        on_progress: Progress | None = None,
    ) -> RunningSequence:
        """Make a sequence for :attr:`engine`: everything is checked and the KV cache allocated, nothing is computed.

        Takes and raises what :meth:`Engine.sequence` does. A recorded sequence that draws at random gets a seed.
        """
        if params.seed is None:
            params = replace(params, seed=read_settings().seed)
        if record and params.seed is None and params.temperature:
            params = replace(params, seed=secrets.randbits(63))
        return self.engine.sequence(
            prompt_ids,
            params,
            eos_ids=self.tokenizer.eos_ids,
            decoder=self.tokenizer.stream_decoder(),
            answer=answer,
            drafter=drafter,
            record=record,
            logits_processors=logits_processors,
            on_progress=on_progress,
        )

    def _new_batch(
        self,
        prompts: Sequence[str | TokenIds],
        params: SamplingParams | Sequence[SamplingParams] | None,
        sampling: SamplingArguments,
        n: int,
        record: bool,
        logits_processors: Sequence[LogitsProcessor],
    ) -> list[RunningSequence]:
        """Make the sequences of several prompts, ``n`` of each."""
        if isinstance(prompts, str):
            raise ParameterError("prompts: expected a list of prompts, got one text; generate takes that")
        if params is None or isinstance(params, SamplingParams):
            each = [_params(params, sampling)] * len(prompts)
        else:
            each = [_params(one, sampling) for one in params]
        if len(each) != len(prompts):
            raise ParameterError(f"params: {len(each)} for {len(prompts)} prompts; give one for each, or one for all")
        ids = [self._prompt_ids(prompt) for prompt in prompts]
        return [
            self.new_sequence(prompt_ids, sample, record=record, logits_processors=logits_processors)
            for prompt_ids, one in zip(ids, each, strict=True)
            for sample in _samples(one, n)
        ]

    def _prompt_ids(self, prompt: str | TokenIds) -> list[int]:
        if not isinstance(prompt, str):
            if isinstance(prompt, Sequence) and len(prompt) and isinstance(prompt[0], str):
                raise ParameterError("the prompt is a list of texts: generate_batch takes several")
            return self._checked_ids(prompt)
        if not prompt:
            raise ParameterError("the prompt is empty: give at least one character")
        return self.tokenize(prompt)

    def _checked_ids(self, token_ids: TokenIds) -> list[int]:
        if not isinstance(token_ids, Sequence | np.ndarray) or isinstance(token_ids, str | bytes | bytearray):
            raise ParameterError(f"expected token ids, got {type(token_ids).__name__}: tokenize makes them from text")
        if len(token_ids) == 0:
            raise ParameterError("the prompt is empty: give at least one token")
        vocab_size = self.config.vocab_size
        for index, token_id in enumerate(token_ids):
            if not _is_integer(token_id) or not 0 <= token_id < vocab_size:
                shown = token_id if _is_integer(token_id) else f"of type {type(token_id).__name__}"
                raise ParameterError(f"token {index} is {shown}: expected an id from 0 to {vocab_size - 1:,}")
        return [int(token_id) for token_id in token_ids]


def _params(params: SamplingParams | None, sampling: SamplingArguments) -> SamplingParams:
    """Return sampling parameters that are given as such, or as keywords; not both."""
    if params is None:
        return from_arguments(SamplingParams, sampling)
    if not isinstance(params, SamplingParams):
        raise ParameterError(f"params: expected SamplingParams, got {type(params).__name__}; or give keywords")
    if sampling:
        raise ParameterError(f"{next(iter(sampling))}: given beside params; put it into params")
    return params


def _samples(params: SamplingParams, n: int) -> list[SamplingParams]:
    """Return the parameters of ``n`` answers to one prompt."""
    if not _is_integer(n) or n < 1:
        raise ParameterError(f"n={n!r}: expected a whole number of at least 1")
    if n > 1 and not params.temperature:
        raise ParameterError(f"n={n}: greedy choice gives one answer; set a temperature")
    seed = read_settings().seed if params.seed is None else params.seed
    return [params if seed is None else replace(params, seed=(seed + i) % 2**64) for i in range(n)]


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
