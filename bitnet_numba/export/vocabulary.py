"""The words of a tokenizer.json as GGUF arrays, and the rule by which their readers split text."""

from dataclasses import dataclass
from typing import Any

from bitnet_numba.errors import UnsupportedError
from bitnet_numba.export.json_file import JsonObject, as_object
from bitnet_numba.export.sentencepiece import SentencePieceVocabulary, read_sentencepiece
from bitnet_numba.export.token_list import Joining, Merge, read_merges, read_words, tokens_by_id
from bitnet_numba.formats.gguf_types import TypedValue, ValueType

# Llama 3's rule for what a word is: contractions, words, digits in threes, punctuation, line ends, spaces.
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class ByteLevelVocabulary:
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

    def metadata(self) -> dict[str, Any]:
        """Return the GGUF keys that hold the vocabulary."""
        return {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": self.splitter,
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": self.kinds,
            "tokenizer.ggml.merges": TypedValue(ValueType.STRING, self.merges),  # of which there may be none
        }


Vocabulary = ByteLevelVocabulary | SentencePieceVocabulary


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
    if model.text("type", "") != "BPE":
        raise UnsupportedError(f"{model.place}: only byte-pair encodings are exported; take a GGUF file of this model")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.text(key, ""):
            raise UnsupportedError(f"{model.place}: {key} has no name in GGUF; take a GGUF file of this model")
    if model.flag("byte_fallback", default=False):
        return read_sentencepiece(tokenizer, vocab_size)
    return _read_byte_level(tokenizer, vocab_size)


def _read_byte_level(tokenizer: JsonObject, vocab_size: int) -> ByteLevelVocabulary:
    model = tokenizer.inner("model")
    if tokenizer.values.get("normalizer") is not None:
        raise UnsupportedError(f"{tokenizer.place}: a normalizer has no name in GGUF; take a GGUF file of this model")
    words = read_words(model)
    merges = read_merges(model)
    splitter = _splitter(tokenizer)
    _check_whole_words(model, words, merges, splitter)
    tokens, kinds = tokens_by_id(tokenizer, words, vocab_size)
    return ByteLevelVocabulary(tokens, kinds, [f"{left} {right}" for left, right in merges], splitter)


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


def _check_whole_words(model: JsonObject, words: dict[str, int], merges: list[Merge], splitter: str) -> None:
    """Refuse a vocabulary that GGUF readers would join differently.

    Under the name ``llama-bpe`` they take a word that is a token at once, under ``gpt-2`` they join it from its bytes.
    A tokenizer that does the other thing means the same only where the merges lead to every token.
    """
    if model.flag("ignore_merges", default=False) == (splitter == "llama-bpe"):
        return
    joining = Joining(model, merges)
    joining.check_effort(list(words))
    unreachable = next((word for word in words if len(joining.join(word)[0]) > 1), None)
    if unreachable is not None:
        raise UnsupportedError(
            f"{model.place}: no merges lead to token {unreachable!a}, and readers of GGUF differ from "
            "ignore_merges here; take a GGUF file of this model"
        )
