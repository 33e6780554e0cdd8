"""The words of a tokenizer.json as GGUF arrays, and the rule by which their readers split text."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.export.json_file import JsonObject, as_object
from bitnet_numba.formats.gguf_types import TypedValue, ValueType

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # kinds of token, as GGUF numbers them
MAX_JOINING_STEPS = 100_000_000  # about a minute; the vocabulary of Llama 3 needs a tenth

# Llama 3's rule for what a word is: contractions, words, digits in threes, punctuation, line ends, spaces.
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A byte-level BPE vocabulary.

    Attributes
    ----------
    tokens : list of str
        Their texts by id, bytes written as GPT-2 writes them.
    kinds : list of int
        ``NORMAL``, ``CONTROL`` or ``USER_DEFINED``, by id.
    merges : list of str
        The pairs to be joined, first come first served, with a space between their halves.
    splitter : str
        The name by which GGUF readers know how text is split into words: ``llama-bpe`` or ``gpt-2``.
    """

    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    splitter: str

    def metadata(self) -> dict[str, str | list[str] | list[int] | TypedValue]:
        """Return the GGUF keys that hold the vocabulary."""
        return {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": self.splitter,
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": self.kinds,
            "tokenizer.ggml.merges": TypedValue(ValueType.STRING, self.merges),  # of which there may be none
        }


def read_vocabulary(tokenizer: JsonObject, vocab_size: int) -> Vocabulary:
    """Read a vocabulary of exactly as many tokens as the embedding has rows.

    Raises
    ------
    FormatError
        If the file contradicts itself, or has another number of tokens.
    UnsupportedError
        If it splits or joins text in a way for which GGUF has no name.
    """
    model = tokenizer.inner("model")
    _refuse_other_models(tokenizer, model)
    words = _token_ids(model.inner("vocab"))
    merges = [_merge(model, entry) for entry in model.items("merges")]
    splitter = _splitter(tokenizer)
    _check_whole_words(model, words, merges, splitter)
    tokens, kinds = _by_id(tokenizer, words, vocab_size)
    return Vocabulary(tokens, kinds, [f"{left} {right}" for left, right in merges], splitter)


def _refuse_other_models(tokenizer: JsonObject, model: JsonObject) -> None:
    """Refuse whatever is not plain byte-level BPE."""
    kind = model.text("type", "")
    if kind != "BPE" or model.flag("byte_fallback", default=False):
        raise UnsupportedError(f"{model.place}: only byte-level BPE is exported; take a GGUF file of this model")
    if tokenizer.values.get("normalizer") is not None:
        raise UnsupportedError(f"{tokenizer.place}: a normalizer has no name in GGUF; take a GGUF file of this model")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.text(key, ""):
            raise UnsupportedError(f"{model.place}: {key} has no name in GGUF; take a GGUF file of this model")


def _token_ids(vocab: JsonObject) -> dict[str, int]:
    return {token: vocab.natural(token) for token in vocab.values}


def _merge(model: JsonObject, entry: Any) -> tuple[str, str]:
    """Return the two halves of a merge, which older files write as one string."""
    halves = entry.split(" ") if isinstance(entry, str) else entry
    if not isinstance(halves, list) or len(halves) != 2 or not all(isinstance(half, str) and half for half in halves):
        raise model.error("merges", entry, "pairs of tokens")
    if any(" " in half for half in halves):
        raise model.error("merges", entry, "pairs without spaces, as byte-level BPE writes them")
    return halves[0], halves[1]


def _by_id(tokenizer: JsonObject, words: dict[str, int], vocab_size: int) -> tuple[list[str], list[int]]:
    """Order words and added tokens by id, and refuse ids that are missing, shared or beyond the embedding."""
    found = {token_id: (token, NORMAL) for token, token_id in words.items()}
    for number, item in enumerate(tokenizer.items("added_tokens")):
        added = as_object(f"{tokenizer.place}: added token {number}", item)
        token, token_id = added.text("content"), added.natural("id")
        if found.get(token_id, (token,))[0] != token:
            raise added.error("id", token_id, "an id of its own")
        found[token_id] = token, CONTROL if added.flag("special", default=False) else USER_DEFINED
    if len(found) != vocab_size or max(found) >= vocab_size:
        raise FormatError(
            f"{tokenizer.place}: {len(found):,} tokens with ids up to {max(found, default=0):,}, but the embedding has "
            f"{vocab_size:,} rows; get the tokenizer that this model was trained with"
        )
    tokens, kinds = zip(*(found[token_id] for token_id in range(vocab_size)), strict=True)
    if len(set(tokens)) != vocab_size:
        raise FormatError(f"{tokenizer.place}: a token has two ids; get the checkpoint's own file again")
    return list(tokens), list(kinds)


def _splitter(tokenizer: JsonObject) -> str:
    """Return GGUF's name for the rule by which text becomes words."""
    pre_tokenizer = tokenizer.inner("pre_tokenizer")
    steps = [as_object(pre_tokenizer.place, step) for step in pre_tokenizer.items("pretokenizers")] or [pre_tokenizer]
    byte_level = steps[-1]
    if byte_level.text("type", "") == "ByteLevel" and not byte_level.flag("add_prefix_space", default=True):
        use_regex = byte_level.flag("use_regex", default=True)
        if len(steps) == 1 and use_regex:
            return "gpt-2"
        if len(steps) == 2 and not use_regex and _splits_as_llama3(steps[0]):
            return "llama-bpe"
    raise UnsupportedError(
        f"{pre_tokenizer.place}: neither the rule of Llama 3 nor that of GPT-2; take a GGUF file of this model"
    )


def _splits_as_llama3(step: JsonObject) -> bool:
    return (
        step.text("type", "") == "Split"
        and step.inner("pattern").text("Regex", "") == LLAMA3_WORDS
        and step.text("behavior", "") == "Isolated"
        and not step.flag("invert", default=False)
    )


def _check_whole_words(model: JsonObject, words: dict[str, int], merges: list[tuple[str, str]], splitter: str) -> None:
    """Refuse a vocabulary that GGUF readers would join differently.

    Under the name ``llama-bpe`` they take a word that is a token at once, under ``gpt-2`` they join it from its bytes.
    A tokenizer that does the other thing means the same only where the merges lead to every token.
    """
    if model.flag("ignore_merges", default=False) == (splitter == "llama-bpe"):
        return
    if sum(len(word) ** 2 for word in words) > MAX_JOINING_STEPS:
        raise UnsupportedError(f"{model.place}: its tokens are too long for the merges to be checked; take a GGUF file")
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    unreachable = next((word for word in words if not _is_joined(word, ranks)), None)
    if unreachable is not None:
        raise UnsupportedError(
            f"{model.place}: no merges lead to token {unreachable!a}, and readers of GGUF differ from "
            "ignore_merges here; take a GGUF file of this model"
        )


def _is_joined(word: str, ranks: dict[tuple[str, str], int]) -> bool:
    """Tell whether byte-pair merging makes one token of a word."""
    parts = list(word)
    while len(parts) > 1:
        pairs = list(pairwise(parts))
        best = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
        if pairs[best] not in ranks:
            return False
        parts[best : best + 2] = ["".join(pairs[best])]
    return True
