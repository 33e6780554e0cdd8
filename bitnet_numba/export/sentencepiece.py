"""BPE with byte fallback, as Llama 2 and 1bitLLM have it, in the form that GGUF readers join by scores."""

import re
from dataclasses import dataclass
from typing import Any

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.export.json_file import JsonObject, as_object
from bitnet_numba.export.token_list import BYTE, NORMAL, UNKNOWN, Joining, Merge, read_merges, read_words, tokens_by_id
from bitnet_numba.text.vocabulary import SPACE_MARK, byte_of_token

_BYTE_TEXT = re.compile("<0x[0-9A-F]{2}>")
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
_PREPEND = {"type": "Prepend", "prepend": SPACE_MARK}


@dataclass(frozen=True, slots=True)
class SentencePieceVocabulary:
    """A vocabulary whose readers join the neighbours that make the token of the best score.

    Attributes
    ----------
    tokens : list of str
        Their texts by id, spaces written as ``▁``, the bytes of other characters as ``<0xNN>``.
    kinds : list of int
        ``NORMAL``, ``UNKNOWN``, ``CONTROL``, ``USER_DEFINED`` or ``BYTE``, by id.
    scores : list of float
        By id.
    unknown_id : int or None
        The token for what cannot be spelled; with every byte among the tokens that is nothing.
    adds_space : bool
        Whether a text is read as if a space stood before it.
    """

    tokens: list[str]
    kinds: list[int]
    scores: list[float]
    unknown_id: int | None
    adds_space: bool

    def metadata(self) -> dict[str, Any]:
        """Return the GGUF keys that hold the vocabulary."""
        keys = {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.scores": self.scores,
            "tokenizer.ggml.token_type": self.kinds,
            "tokenizer.ggml.add_space_prefix": self.adds_space,
        }
        return keys if self.unknown_id is None else keys | {"tokenizer.ggml.unknown_token_id": self.unknown_id}


def read_sentencepiece(tokenizer: JsonObject, vocab_size: int) -> SentencePieceVocabulary:
    """Read a vocabulary of BPE with byte fallback.

    Raises
    ------
    FormatError
        If the file contradicts itself, or has another number of tokens.
    UnsupportedError
        If GGUF readers would treat spaces otherwise, or join some text to other tokens.
    """
    model = tokenizer.inner("model")
    adds_space = _adds_space(tokenizer)
    if model.flag("ignore_merges", default=False):
        raise UnsupportedError(f"{model.place}: ignore_merges has no name in GGUF here; take a GGUF file of this model")
    merges = read_merges(model)
    tokens, kinds = tokens_by_id(tokenizer, read_words(model), vocab_size)
    kinds = [
        BYTE if kind == NORMAL and byte_of_token(token) is not None else kind
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    unknown = model.text("unk_token", "")
    unknown_id = tokens.index(unknown) if unknown in tokens else None
    if unknown_id is not None:
        kinds[unknown_id] = UNKNOWN
    _check_bytes(model, tokens, kinds)
    _check_merges(model, merges, dict(zip(tokens, kinds, strict=True)))
    scores = _scores(model, tokens, merges)
    return SentencePieceVocabulary(tokens, kinds, scores, unknown_id, adds_space)


def _adds_space(tokenizer: JsonObject) -> bool:
    """Tell whether a text, and what follows a special token, is read as if a space stood before it.

    GGUF readers put that space there whatever the text begins with. Metaspace by itself does not do so where there is
    one already, and in one of its schemes not after special tokens either: it is the same only where it does nothing.
    """
    normalizer = tokenizer.inner("normalizer")
    inner = [as_object(normalizer.place, step).values for step in normalizer.items("normalizers")]
    steps = inner or [normalizer.values] * bool(normalizer.values)
    prepends = steps[:1] == [_PREPEND]
    metaspace = tokenizer.inner("pre_tokenizer")
    if metaspace.values:
        scheme = metaspace.text("prepend_scheme", "always")
        replaces = metaspace.text("type", "") == "Metaspace" and metaspace.text("replacement", "") == SPACE_MARK
        does_the_same = replaces and not metaspace.flag("split", default=True) and (prepends or scheme == "never")
        if does_the_same and steps in ([], [_REPLACE], [_PREPEND, _REPLACE]):
            return prepends
    elif steps in ([_REPLACE], [_PREPEND, _REPLACE]):
        return prepends
    raise UnsupportedError(
        f"{tokenizer.place}: normalizer and pre_tokenizer treat spaces unlike GGUF readers, which prepend and replace "
        "them by U+2581; take a GGUF file of this model"
    )


def _check_bytes(model: JsonObject, tokens: list[str], kinds: list[int]) -> None:
    n_bytes = kinds.count(BYTE)
    if n_bytes != 256:
        raise FormatError(
            f"{model.place}: byte_fallback with {n_bytes} of the 256 byte tokens; get the checkpoint's own file again"
        )
    for token, kind in zip(tokens, kinds, strict=True):
        if kind == NORMAL and _BYTE_TEXT.search(token):
            raise UnsupportedError(
                f"{model.place}: token {token!a} spells a byte token, which readers of GGUF may join to others; "
                "take a GGUF file of this model"
            )


def _check_merges(model: JsonObject, merges: list[Merge], kinds: dict[str, int]) -> None:
    """Refuse merges of what is no token, and of tokens that GGUF readers keep apart from plain text."""
    for left, right in merges:
        for token in (left, right, left + right):
            if token not in kinds:
                raise model.error("merges", [left, right], "pairs of tokens that make a token")
            if kinds[token] != NORMAL:
                raise UnsupportedError(
                    f"{model.place}: merges lead to token {token!a}, which is a byte or added and so never joined by "
                    "readers of GGUF; take a GGUF file of this model"
                )


def _scores(model: JsonObject, tokens: list[str], merges: list[Merge]) -> list[float]:
    """Return scores by which neighbours are joined as they are by the merges.

    Whenever a text is joined, what happens within a token's own characters happens as if they stood alone. So a token
    is only ever made by the merge that ends the joining of its own text, and the ranks of these merges order the
    tokens. Readers of scores may also join two tokens that are no merge, but only where they make a token that the
    merges leave in these two parts: that is refused. A token that is left in more parts is made by neither.
    """
    joining = Joining(model, merges)
    joining.check_effort(tokens)
    last_ranks: dict[str, int] = {}
    for token in tokens:
        parts, last = joining.join(token)
        if len(parts) == 2:
            raise UnsupportedError(
                f"{model.place}: no merge joins {parts[0]!a} and {parts[1]!a}, but readers of GGUF do, for they make "
                "a token; take a GGUF file of this model"
            )
        if len(parts) == 1 and last >= 0:
            last_ranks[token] = last
    places = {token: place for place, token in enumerate(sorted(last_ranks, key=last_ranks.__getitem__))}
    return [float(-places.get(token, len(places))) for token in tokens]
