"""Convert a BPE with byte fallback, as Llama 2 and 1bitLLM have it, to the scores that GGUF readers join by."""

import re
from typing import Any

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.export.token_list import Joining, tokens_by_id
from bitnet_numba.formats.json_file import JsonObject
from bitnet_numba.text.tokenizer_json import TokenizerFile
from bitnet_numba.text.vocabulary import SPACE_MARK, TokenType, byte_of_token

BYTE, NORMAL, UNKNOWN = TokenType.BYTE, TokenType.NORMAL, TokenType.UNKNOWN

_BYTE_TEXT = re.compile("<0x[0-9A-F]{2}>")
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
_PREPEND = {"type": "Prepend", "prepend": SPACE_MARK}


def sentencepiece_metadata(file: TokenizerFile, vocab_size: int) -> dict[str, Any]:
    """Return the GGUF keys of a BPE with byte fallback; errors as for :func:`vocabulary_metadata`.

    Readers join the neighbours that make the token of the best score. A space is ``▁``, the bytes of other characters
    are ``<0xNN>``. The unknown token, for text that cannot be spelled, is never used where every byte is a token.
    """
    model = file.model
    adds_space = _adds_space(file)
    if model.flag("ignore_merges", default=False):
        raise UnsupportedError(f"{model.place}: ignore_merges has no name in GGUF here; take a GGUF file of this model")
    tokens, kinds = tokens_by_id(file, vocab_size)
    kinds = [
        int(BYTE) if kind == NORMAL and byte_of_token(token) is not None else kind
        for token, kind in zip(tokens, kinds, strict=True)
    ]
    unknown = model.text("unk_token", "")
    unknown_id = tokens.index(unknown) if unknown in tokens else None
    if unknown_id is not None:
        kinds[unknown_id] = int(UNKNOWN)
    _check_bytes(model, tokens, kinds)
    _check_merges(file, dict(zip(tokens, kinds, strict=True)))
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": _scores(file, tokens),
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.add_space_prefix": adds_space,
    }
    return keys if unknown_id is None else keys | {"tokenizer.ggml.unknown_token_id": unknown_id}


def _adds_space(file: TokenizerFile) -> bool:
    """Tell whether a space is put before a text, and before text after a special token.

    GGUF readers always add it. Metaspace does not where there is one already, and in one of its schemes not after
    special tokens: the two are equivalent only where Metaspace does nothing.
    """
    steps = [step.values for step in file.steps("normalizer")]
    prepends = steps[:1] == [_PREPEND]
    metaspace = file.document.inner("pre_tokenizer")
    if metaspace.values:
        scheme = metaspace.text("prepend_scheme", "always")
        replaces = metaspace.text("type", "") == "Metaspace" and metaspace.text("replacement", "") == SPACE_MARK
        does_the_same = replaces and not metaspace.flag("split", default=True) and (prepends or scheme == "never")
        if does_the_same and steps in ([], [_REPLACE], [_PREPEND, _REPLACE]):
            return prepends
    elif steps in ([_REPLACE], [_PREPEND, _REPLACE]):
        return prepends
    raise UnsupportedError(
        f"{file.place}: normalizer and pre_tokenizer treat spaces unlike GGUF readers, which prepend and replace "
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


def _check_merges(file: TokenizerFile, kinds: dict[str, int]) -> None:
    """Refuse merges of unknown tokens, and of tokens that GGUF readers keep apart from plain text."""
    model = file.model
    for left, right in file.merges:
        for token in (left, right, left + right):
            if token not in kinds:
                raise model.error("merges", [left, right], "pairs of tokens that make a token")
            if kinds[token] != NORMAL:
                raise UnsupportedError(
                    f"{model.place}: merges lead to token {token!a}, which is a byte or added and so never joined by "
                    "readers of GGUF; take a GGUF file of this model"
                )


def _scores(file: TokenizerFile, tokens: list[str]) -> list[float]:
    """Return scores that join neighbours exactly as the merges do.

    Within a longer text the characters of a token are joined as if they stood alone. So a token is made only by the
    last merge of its own text, and the ranks of these merges order the tokens. Readers of scores may also join two
    tokens without a merge, but only into a token that the merges leave in these two parts: that is refused. A token
    left in more parts is made by neither.
    """
    joining = Joining(file)
    joining.check_effort(tokens)
    last_ranks: dict[str, int] = {}
    for token in tokens:
        parts, last = joining.join(token)
        if len(parts) == 2:
            raise UnsupportedError(
                f"{file.model.place}: no merge joins {parts[0]!a} and {parts[1]!a}, but readers of GGUF do, for they "
                "make a token; take a GGUF file of this model"
            )
        if len(parts) == 1 and last >= 0:
            last_ranks[token] = last
    places = {token: place for place, token in enumerate(sorted(last_ranks, key=last_ranks.__getitem__))}
    return [float(-places.get(token, len(places))) for token in tokens]
