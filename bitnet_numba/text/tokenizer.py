"""Encode text to token ids and decode it, with special tokens under control; the only import of ``tokenizers``."""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import tokenizers
from tokenizers import models

from bitnet_numba.errors import BitNetError, FormatError, ParameterError, excerpt
from bitnet_numba.text.stream_decoder import StreamDecoder
from bitnet_numba.text.text_matcher import TextMatcher
from bitnet_numba.text.tokenizer_gguf import spec_from_gguf
from bitnet_numba.text.tokenizer_json import spec_from_file
from bitnet_numba.text.vocabulary import TokenizerSpec

MAX_TEXT_LENGTH: Final = 16 * 2**20
MAX_RUN_LENGTH: Final = 2**20  # of a word or of white space; the package panics at some millions

# No vocabulary has it, so that a character which cannot be spelled is an error instead of being dropped.
_NO_TOKEN: Final = "\0unspellable"


class SpecialSpan(NamedTuple):
    """The part of a text that is one special token."""

    start: int
    stop: int
    token_id: int


class Tokenizer:
    """A model's tokenizer; threads may share it.

    Special tokens (``special_ids``) are split off before the ``tokenizers`` package sees the text, and its vocabulary
    does not hold them: text becomes a special token only where the caller requests it. ``bos_id``, ``eos_id``,
    ``eos_ids``, ``add_bos`` and ``notes`` are those of :class:`~bitnet_numba.text.vocabulary.TokenizerSpec`.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        vocabulary = spec.vocabulary
        self.vocab_size = vocabulary.size
        self.bos_id = spec.bos_id
        self.eos_id = spec.eos_id
        self.eos_ids = spec.eos_ids
        self.add_bos = spec.add_bos
        self.special_ids = frozenset(added.token_id for added in vocabulary.added.values() if added.is_special)
        self.notes = spec.notes
        self._vocabulary = vocabulary
        self._ids = {text: token_id for token_id, text in vocabulary.texts.items()}
        self._drops_space = spec.drops_space
        self._special_texts = TextMatcher(text for text, added in vocabulary.added.items() if added.is_special)
        self._user_texts = TextMatcher(text for text, added in vocabulary.added.items() if not added.is_special)
        model = _bpe_model(spec)
        self._first = _encoder(model, spec.normalizer, spec.pre_tokenizer)
        self._later = _encoder(model, spec.normalizer, spec.later_pre_tokenizer)

    def token_id(self, text: str) -> int | None:
        """Return the id of the token with this spelling, or None."""
        return self._ids.get(text)

    def token_text(self, token_id: int) -> str:
        """Return the spelling of a token: ``Ġthe``, ``▁the``, ``<|eot_id|>``; ParameterError if there is none."""
        self._check_ids([token_id])
        return self._vocabulary.texts[token_id]

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token, which may be part of a character."""
        self._check_ids([token_id])
        return self._vocabulary.token_bytes(token_id)

    def encode(self, text: str, *, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """Return the token ids of a text of at most 16 Mi characters.

        ``add_bos`` puts ``bos_id`` first, if the model uses one and it is not there yet. ``parse_special`` recognises
        special tokens: only for text whose author may steer the model. Raises a ParameterError if the text or a word
        of it is too long, or it holds half a surrogate pair, a FormatError if the vocabulary cannot spell it.
        """
        _check_text(text)
        ids = self.encode_spans(text, self.find_special(text) if parse_special else [])
        return self.with_bos(ids) if add_bos else ids

    def with_bos(self, ids: list[int]) -> list[int]:
        """Put ``bos_id`` first, if the model uses one and it is not there yet."""
        if not self.add_bos or self.bos_id is None or ids[:1] == [self.bos_id]:
            return ids
        return [self.bos_id, *ids]

    def find_special(self, text: str) -> list[SpecialSpan]:
        """Return the special tokens that a text spells, from left to right, the longest first."""
        return list(self._find(self._special_texts, text))

    def encode_spans(self, text: str, spans: Sequence[SpecialSpan], cuts: Sequence[int] = ()) -> list[int]:
        """Return the token ids of a text with special tokens at ``spans`` alone; no token reaches across a cut."""
        _check_text(text)
        ids: list[int] = []
        position = 0
        for span in spans:
            ids += self._encode_between(text, position, span.start, cuts)
            ids.append(span.token_id)
            position = span.stop
        return ids + self._encode_between(text, position, len(text), cuts)

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Return the text of token ids; invalid UTF-8 becomes U+FFFD. ParameterError for an unknown id."""
        ids = list(ids)
        self._check_ids(ids)
        decoder = self.stream_decoder(skip_special=skip_special, at_start=True)
        return "".join([decoder.push(token_id) for token_id in ids] + [decoder.finish()])

    def stream_decoder(self, *, skip_special: bool = True, at_start: bool = False) -> StreamDecoder:
        """Return a decoder for tokens that arrive one by one.

        ``at_start`` says that they begin a text: the space that some tokenizers put before it is dropped.
        """
        hidden = self.special_ids if skip_special else frozenset()

        def bytes_of(token_id: int) -> bytes:
            return b"" if token_id in hidden else self._vocabulary.token_bytes(token_id)

        return StreamDecoder(bytes_of, drops_space=at_start and self._drops_space)

    def _encode_between(self, text: str, start: int, stop: int, cuts: Sequence[int]) -> list[int]:
        borders = [start, *(cut for cut in cuts if start < cut < stop), stop]
        parts = (self._encode_plain(text, first, end) for first, end in itertools.pairwise(borders))
        return list(itertools.chain.from_iterable(parts))

    def _encode_plain(self, text: str, start: int, stop: int) -> list[int]:
        ids: list[int] = []
        position = start
        for span in self._find(self._user_texts, text[start:stop]):
            ids += self._encode_run(text[position : start + span.start], is_first=position == 0)
            ids.append(span.token_id)
            position = start + span.stop
        return ids + self._encode_run(text[position:stop], is_first=position == 0)

    def _encode_run(self, run: str, is_first: bool) -> list[int]:
        if not run:
            return []
        encoder = self._first if is_first else self._later
        # For a checked text its one reason is a character without a token.
        remedy = f"the vocabulary cannot spell {run[:40]!r}; use the tokenizer.json of the model"
        with _package_errors(lambda _: FormatError(remedy)):
            return list(encoder.encode(run, add_special_tokens=False).ids)

    def _find(self, texts: TextMatcher, text: str) -> Iterator[SpecialSpan]:
        position = 0
        for start, stop in texts.find(text):
            added = self._vocabulary.added[text[start:stop]]
            if start < position:
                continue
            while added.takes_left and start > position and text[start - 1].isspace():
                start -= 1
            while added.takes_right and stop < len(text) and text[stop].isspace():
                stop += 1
            yield SpecialSpan(start, stop, added.token_id)
            position = stop

    def _check_ids(self, ids: Iterable[int]) -> None:
        for token_id in ids:
            if token_id not in self._vocabulary.texts:
                raise ParameterError(f"token {token_id}: not in the vocabulary of {self.vocab_size:,} tokens")


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer of a GGUF file; raises as :func:`~bitnet_numba.text.tokenizer_gguf.spec_from_gguf`."""
    return Tokenizer(spec_from_gguf(metadata))


def tokenizer_from_file(path: Path) -> Tokenizer:
    """Build the tokenizer of a tokenizer.json; see :func:`~bitnet_numba.text.tokenizer_json.spec_from_file`."""
    return Tokenizer(spec_from_file(path))


def _bpe_model(spec: TokenizerSpec) -> models.BPE:
    remedy = "the file is damaged or badly converted: download it again"
    with _package_errors(lambda reason: FormatError(f"tokenizer: {reason}; {remedy}")):
        return models.BPE(
            vocab=spec.vocabulary.plain(spec.unknown),
            merges=spec.vocabulary.plain_merges(spec.merges),
            unk_token=_NO_TOKEN if spec.unknown is None else spec.unknown,
            fuse_unk=True,
            byte_fallback=spec.byte_fallback,
            ignore_merges=spec.ignore_merges,
        )


def _encoder(
    model: models.BPE, normalizer: dict[str, Any] | None, pre_tokenizer: dict[str, Any] | None
) -> tokenizers.Tokenizer:
    """Return an encoder of plain text: without any added token, padding or truncation."""
    pipeline: dict[str, Any] = {"version": "1.0", "normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
    pipeline["model"] = {"type": "BPE", "vocab": {}, "merges": []}
    pipeline |= {"added_tokens": [], **dict.fromkeys(("post_processor", "decoder", "truncation", "padding"))}
    with _package_errors(lambda reason: FormatError(f"tokenizer: {reason}; the file is damaged: download it again")):
        encoder = tokenizers.Tokenizer.from_str(json.dumps(pipeline))
    encoder.model = model
    return encoder


@contextmanager
def _package_errors(explain: Callable[[str], BitNetError]) -> Iterator[None]:
    """Turn what the package raises into a BitNetError: plain Exception, and a panic, which is none."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise explain(excerpt(str(error))) from error


def _check_text(text: str) -> None:
    if len(text) > MAX_TEXT_LENGTH:
        raise ParameterError(f"text of {len(text):,} characters; at most {MAX_TEXT_LENGTH:,}: shorten it")
    if len(text) > MAX_RUN_LENGTH:
        longest = max(found.end() - found.start() for found in re.finditer(r"\s+|\S+", text))
        if longest > MAX_RUN_LENGTH:
            problem = f"{longest:,} characters in a row without a border between a word and white space"
            raise ParameterError(f"text: {problem}; at most {MAX_RUN_LENGTH:,}: break it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ParameterError(f"text, character {error.start}: half a surrogate pair; remove it") from error
