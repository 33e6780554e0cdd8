"""Vocabularies as data: the spelling of tokens, their bytes, and the parts a tokenizer is built from."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final

SPACE_MARK: Final = "▁"
MAX_VOCABULARY: Final = 2**22
MAX_TOKEN_LENGTH: Final = 1024
TURN_ENDS: Final = ("<|eot_id|>", "<|im_end|>")
LLAMA3_PATTERN: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)

GPT2_PATTERN: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class TokenType(IntEnum):
    """Kinds of tokens, as ``tokenizer.ggml.token_type`` numbers them."""

    UNDEFINED = 0  # a converter's word for a normal token
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class AddedText:
    """A text that is one token wherever it is recognised."""

    token_id: int
    is_special: bool  # recognised only where special tokens are parsed; otherwise in every text
    takes_left: bool = False  # it swallows the white space on that side
    takes_right: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model."""

    is_byte_level: bool  # spelled in GPT-2's byte alphabet; otherwise as SentencePiece does, with ``▁`` and ``<0xNN>``
    texts: dict[int, str]  # every token as the vocabulary spells it, by id
    added: dict[str, AddedText]  # the texts that are split off before the rest is encoded

    @property
    def size(self) -> int:
        """The number of token ids: one more than the largest."""
        return 1 + max(self.texts, default=-1)

    def plain(self, unknown: str | None) -> dict[str, int]:
        """Return the tokens of plain text, with ``unknown``.

        A special token is left out, so that no merge and no whole word can forge it.
        """
        return {text: i for i, text in self.texts.items() if text not in self.added or text == unknown}

    def plain_merges(self, merges: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the merges that neither use nor make an added token, in their order."""
        added = self.added
        return [
            (left, right) for left, right in merges if not (left + right in added or left in added or right in added)
        ]

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token; none for a token outside the vocabulary."""
        text = self.texts.get(token_id, "")
        if text in self.added:
            return text.encode()
        if self.is_byte_level:
            return bytes_of_spelling(text)
        byte = byte_of_token(text)
        return text.replace(SPACE_MARK, " ").encode() if byte is None else bytes([byte])


def _byte_alphabet() -> str:
    """Return the 256 characters that spell bytes: printable ones themselves, the others from U+0100 upwards.

    Source: ``bytes_to_unicode`` in the code of Radford et al., "Language Models are Unsupervised Multitask Learners".
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(byte) if byte in printable else chr(next(others)) for byte in range(256))


BYTE_ALPHABET: Final = _byte_alphabet()
_BYTE_OF_CHARACTER: Final = {character: byte for byte, character in enumerate(BYTE_ALPHABET)}


def spelling_of_bytes(data: bytes) -> str:
    """Spell bytes in the byte alphabet of GPT-2."""
    return "".join(map(BYTE_ALPHABET.__getitem__, data))


def bytes_of_spelling(text: str) -> bytes:
    """Return the bytes of a spelling; of text outside the byte alphabet, its UTF-8."""
    try:
        return bytes(map(_BYTE_OF_CHARACTER.__getitem__, text))
    except KeyError:
        return text.encode()


def byte_of_token(text: str) -> int | None:
    """Return the byte of a SentencePiece token like ``<0x0A>``, or None for another token."""
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        digits = text[3:5]
        return int(digits, 16) if set(digits) <= set("0123456789ABCDEF") else None
    return None


@dataclass(frozen=True)
class TokenizerSpec:
    """The parts of a tokenizer, from a GGUF file or a tokenizer.json; pipeline stages in the form of the latter."""

    vocabulary: Vocabulary
    merges: list[tuple[str, str]]  # in order of rank
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    later_pre_tokenizer: dict[str, Any] | None = None  # for text that follows a special token
    ignore_merges: bool = False  # a word that is a token is taken whole
    byte_fallback: bool = False  # characters outside the vocabulary become ``<0xNN>`` tokens
    unknown: str | None = None  # the token for text that cannot be spelled
    bos_id: int | None = None
    eos_id: int | None = None  # the token that the model's files call the end of a text
    eos_ids: frozenset[int] = frozenset()  # each of them ends a generation
    add_bos: bool = False  # texts begin with ``bos_id``
    drops_space: bool = False  # encoding puts a space before a text, which decoding removes
    notes: tuple[str, ...] = ()  # assumptions about the file, a line each, for the user


def with_special(vocabulary: Vocabulary, token_ids: Iterable[int], merges: Iterable[tuple[str, str]]) -> Vocabulary:
    """Make the tokens that begin and end texts special, whatever a converter wrote about them.

    Not those that text spells: to end an answer (a newline, ``#``) is another fact than to be special.
    """
    made = {left + right for left, right in merges}
    added = dict(vocabulary.added)
    for token_id in token_ids:
        text = vocabulary.texts[token_id]
        is_markup = len(text) > 2 and text[0] + text[-1] == "<>" and byte_of_token(text) is None
        is_spelled = len(text) == 1 or byte_of_token(text) is not None or text in made
        if is_markup or not is_spelled:
            added[text] = replace(added.get(text, AddedText(token_id, is_special=True)), is_special=True)
    return replace(vocabulary, added=added)


def turn_ends(vocabulary: Vocabulary) -> set[int]:
    """Return the special tokens that end a chat turn by their well-known names."""
    found = (vocabulary.added.get(text) for text in TURN_ENDS)
    return {added.token_id for added in found if added is not None and added.is_special}
