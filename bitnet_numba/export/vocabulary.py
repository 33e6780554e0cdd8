"""Convert a tokenizer.json and the files beside it to GGUF keys: vocabulary, merges, pre-tokenizer, special tokens."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.export.sentencepiece import sentencepiece_metadata
from bitnet_numba.export.token_list import Joining, check_merges, tokens_by_id
from bitnet_numba.formats.gguf_types import TypedValue, ValueType
from bitnet_numba.formats.json_file import JsonObject, read_json_if_present
from bitnet_numba.text.tokenizer_json import TokenizerFile
from bitnet_numba.text.vocabulary import LLAMA3_PATTERN

TURN_ENDS = {"<|eot_id|>": "eot", "<|im_end|>": "eot", "<|eom_id|>": "eom"}


def vocabulary_metadata(file: TokenizerFile, vocab_size: int) -> dict[str, Any]:
    """Return the GGUF keys of a tokenizer's vocabulary, with exactly one token for each row of the embedding.

    Raises FormatError if the file contradicts itself, or has more tokens than rows; UnsupportedError if it splits or
    joins text in a way for which GGUF has no name.
    """
    check_merges(file)
    if file.model.flag("byte_fallback", default=False):
        return sentencepiece_metadata(file, vocab_size)
    if file.document.values.get("normalizer") is not None:
        raise UnsupportedError(f"{file.place}: a normalizer has no name in GGUF; take a GGUF file of this model")
    splitter = _splitter(file)
    _check_whole_words(file, splitter)
    tokens, kinds = tokens_by_id(file, vocab_size)
    merges = [f"{left} {right}" for left, right in file.merges]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": splitter,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": TypedValue(ValueType.STRING, merges),  # typed, because it may be empty
    }


def _splitter(file: TokenizerFile) -> str:
    """Return GGUF's name for the rule that splits text into words."""
    steps = file.steps("pre_tokenizer")
    if steps and steps[-1].text("type", "") == "ByteLevel" and not steps[-1].flag("add_prefix_space", default=True):
        use_regex = steps[-1].flag("use_regex", default=True)
        if len(steps) == 1 and use_regex:
            return "gpt-2"
        if len(steps) == 2 and not use_regex and _splits_as_llama3(steps[0]):
            return "llama-bpe"
    raise UnsupportedError(
        f"{file.place}: pre_tokenizer: neither the rule of Llama 3 nor that of GPT-2; take a GGUF file of this model"
    )


def _splits_as_llama3(step: JsonObject) -> bool:
    return (
        step.text("type", "") == "Split"
        and step.inner("pattern").text("Regex", "") == LLAMA3_PATTERN
        and step.text("behavior", "") == "Isolated"
        and not step.flag("invert", default=False)
    )


def _check_whole_words(file: TokenizerFile, splitter: str) -> None:
    """Refuse a vocabulary that GGUF readers would join differently.

    Under the name ``llama-bpe`` they take a word that is a token at once, under ``gpt-2`` they join it from its bytes.
    A tokenizer that does the other thing is equivalent only if the merges lead to every token.
    """
    if file.model.flag("ignore_merges", default=False) == (splitter == "llama-bpe"):
        return
    joining = Joining(file)
    joining.check_effort(list(file.words))
    unreachable = next((word for word in file.words if len(joining.join(word)[0]) > 1), None)
    if unreachable is not None:
        raise UnsupportedError(
            f"{file.model.place}: no merges lead to token {unreachable!a}, and readers of GGUF differ from "
            "ignore_merges here; take a GGUF file of this model"
        )


# ---- special tokens --------------------------------------------------------------------------------------------------
def special_token_metadata(directory: Path, file: TokenizerFile, tokens: list[str]) -> dict[str, int | bool]:
    """Return the GGUF keys for special ids, and for whether a text begins with one; ``tokens`` are by id.

    Reads the checkpoint's ``config.json``, and ``generation_config.json`` and ``tokenizer_config.json`` if they exist.
    Raises FormatError if an id is no token, or a value is malformed; UnsupportedError if generation ends at more kinds
    of tokens than GGUF has keys for.
    """
    names = ("config.json", "generation_config.json", "tokenizer_config.json")
    config, generation, settings = (read_json_if_present(directory / name) for name in names)
    begin = config.natural("bos_token_id")
    ends = [*config.naturals("eos_token_id"), *generation.naturals("eos_token_id")]
    if not ends:
        raise config.error("eos_token_id", None, "the token that ends a text")
    ids = {"bos": begin} | _end_ids(directory, ends, tokens)
    padding = [*config.naturals("pad_token_id"), *generation.naturals("pad_token_id")]
    if padding:
        ids["padding"] = padding[0]
    for name, token_id in ids.items():
        if token_id >= len(tokens):
            raise FormatError(
                f"{directory}: the {name} token {token_id:,} is not in the vocabulary; get the checkpoint's own files"
            )
    add_begin = settings.flag("add_bos_token", default=file.first_token() == tokens[begin])
    keys: dict[str, int | bool] = {f"tokenizer.ggml.{name}_token_id": token_id for name, token_id in ids.items()}
    return keys | {"tokenizer.ggml.add_bos_token": add_begin}


def _end_ids(directory: Path, ends: Iterable[int], tokens: list[str]) -> dict[str, int]:
    """Give each id at which generation ends its GGUF name: end of text, of a turn, of a message."""
    named: dict[str, int] = {}
    for token_id in dict.fromkeys(ends):
        text = tokens[token_id] if token_id < len(tokens) else ""
        name = "eos" if not named else TURN_ENDS.get(text, "eot")
        if name in named:
            raise UnsupportedError(
                f"{directory}: eos_token_id names token {token_id:,} too, for which GGUF has no key; "
                "remove it from config.json and generation_config.json"
            )
        named[name] = token_id
    return named
