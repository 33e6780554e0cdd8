"""Toy tokenizers in the way of Llama 2: BPE with byte fallback, its spaces written as U+2581."""

from itertools import product
from typing import Any

from bitnet_numba.text.vocabulary import SPACE_MARK
from tests.tiny import toy_model
from tests.tiny_files import HuggingFaceModel

UNKNOWN, BEGIN, END, FIRST_BYTE = 0, 1, 2, 3
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
LETTERS = [SPACE_MARK, *"abcdé"]
JOINED = ["ab", "▁a", "▁ab", "cd", "abcd", "▁▁", "▁▁▁", "▁▁▁▁", "▁abcd", "éd", "bc", "aa", "aaa", "d▁"]
PAD, MARK = "<pad>", "[mark]"  # added behind the vocabulary: a special token, and one that is recognised in any text

PREPEND = {"type": "Prepend", "prepend": SPACE_MARK}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
METASPACE = {"type": "Metaspace", "replacement": SPACE_MARK, "prepend_scheme": "never", "split": False}


def all_merges(tokens: list[str], joined: list[str]) -> list[list[str]]:
    """Return every way to make the joined tokens out of two others, as converters from SentencePiece list them."""
    pairs = product(tokens, tokens)
    found = [[left, right] for left, right in pairs if left + right in joined]
    return sorted(found, key=lambda pair: (joined.index("".join(pair)), tokens.index(pair[0])))


def llama2_tokenizer(
    joined: list[str] | None = None, merges: list[list[str]] | None = None, *, adds_space: bool = True
) -> dict[str, Any]:
    """Return a tokenizer.json; merges are all that make the joined tokens, best first, unless they are given."""
    joined = JOINED if joined is None else joined
    tokens = [*SPECIAL, *BYTE_TOKENS, *joined, *LETTERS]
    plain = [*joined, *LETTERS]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": token_id, "content": text, "special": True} | flags for token_id, text in enumerate(SPECIAL)]
    added.append({"id": len(tokens), "content": PAD, "special": True} | flags)
    added.append({"id": len(tokens) + 1, "content": MARK, "special": False} | flags)
    template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [PREPEND, REPLACE] if adds_space else [REPLACE]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BEGIN], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "ByteFallback"},
        "model": {
            "type": "BPE",
            "vocab": {token: token_id for token_id, token in enumerate(tokens)},
            "merges": all_merges(plain, joined) if merges is None else merges,
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def n_tokens(tokenizer: dict[str, Any]) -> int:
    """Return how many tokens a tokenizer.json of this module has."""
    return len(tokenizer["model"]["vocab"]) + 2


def llama2_checkpoint(tokenizer: dict[str, Any]) -> HuggingFaceModel:
    """Return a toy model of 1bitLLM's family with such a tokenizer."""
    size = n_tokens(tokenizer)
    model = toy_model("bitnet", vocab_size=size, has_masters=True).checkpoint(None)
    model.config.update(bos_token_id=BEGIN, eos_token_id=END, pad_token_id=size - 2)
    model.files["generation_config.json"] = {"eos_token_id": END}
    model.files["tokenizer_config.json"] = {"add_bos_token": True, "chat_template": "{{ messages[0].content }}"}
    model.files["tokenizer.json"] = tokenizer
    return model
