"""Tokenizers from a Hugging Face directory: tokenizer.json and the small files beside it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from bitnet_numba.errors import FormatError, UnsupportedError, excerpt
from bitnet_numba.text.vocabulary import (
    MAX_TOKEN_LENGTH,
    MAX_VOCABULARY,
    AddedText,
    TokenizerSpec,
    Vocabulary,
    turn_ends,
)

MAX_FILE_BYTES: Final = 128 * 2**20


def spec_from_file(path: Path) -> TokenizerSpec:
    """Read a tokenizer.json, with ``tokenizer_config.json``, ``generation_config.json`` and ``config.json`` beside it.

    Raises
    ------
    FormatError
        If a file is missing or malformed.
    UnsupportedError
        If the tokenizer is not byte-pair encoding, or splits text in a way that is not served.
    """
    document = _read_json(path)
    try:
        spec = _read_model(document, path)
        return _with_ends(spec, document, path)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise FormatError(f"{path}: not a tokenizer.json ({excerpt(error)}); download it again") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FormatError(
            f"{path}: no such file (a tokenizer.model alone is not read); get it with the rest of the model"
        )
    if path.stat().st_size > MAX_FILE_BYTES:
        raise FormatError(f"{path}: {path.stat().st_size:,} bytes; at most {MAX_FILE_BYTES:,}")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(document, dict):
        raise FormatError(f"{path}: expected a JSON object; download it again")
    return document


def _read_model(document: Mapping[str, Any], path: Path) -> TokenizerSpec:
    model = document["model"]
    if model.get("type", "BPE") != "BPE":
        raise UnsupportedError(
            f"{path}: a tokenizer of type {excerpt(model['type'])}; only BPE is served: use the model's GGUF file"
        )
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise UnsupportedError(
                f"{path}: model.{key} = {excerpt(model[key])} is not served; use the model's GGUF file"
            )
    stages = {
        name: [stage.get("type") for stage in _stages(document.get(name))] for name in ("pre_tokenizer", "decoder")
    }
    is_byte_level = "ByteLevel" in stages["pre_tokenizer"] or "ByteLevel" in stages["decoder"]
    byte_fallback = bool(model.get("byte_fallback"))
    if not (is_byte_level or byte_fallback):
        raise UnsupportedError(f"{path}: neither byte-level nor with byte fallback; use the model's GGUF file")
    vocabulary = _read_vocabulary(document, is_byte_level, path)
    unknown = model.get("unk_token")
    return TokenizerSpec(
        vocabulary,
        _read_merges(model["merges"], path),
        normalizer=document.get("normalizer"),
        pre_tokenizer=document.get("pre_tokenizer"),
        later_pre_tokenizer=_after_a_token(document.get("pre_tokenizer")),
        ignore_merges=bool(model.get("ignore_merges")),
        byte_fallback=byte_fallback,
        unknown=unknown if unknown in vocabulary.texts.values() else None,
        drops_space=any(map(_takes_a_space, _stages(document.get("decoder")))),
    )


def _read_vocabulary(document: Mapping[str, Any], is_byte_level: bool, path: Path) -> Vocabulary:
    texts = {token_id: text for text, token_id in document["model"]["vocab"].items()}
    if len(texts) != len(document["model"]["vocab"]):
        raise FormatError(f"{path}: two tokens of the vocabulary share an id; download it again")
    added = {}
    for entry in document.get("added_tokens") or ():
        if entry.get("single_word"):
            raise UnsupportedError(
                f"{path}: added token {excerpt(entry['content'])} matches whole words only: not served"
            )
        if texts.setdefault(entry["id"], entry["content"]) != entry["content"]:
            raise FormatError(f"{path}: id {excerpt(entry['id'])} has two texts; download it again")
        sides = bool(entry.get("lstrip")), bool(entry.get("rstrip"))
        added[entry["content"]] = AddedText(entry["id"], bool(entry.get("special")), *sides)
    for token_id, text in texts.items():
        if type(token_id) is not int or not 0 <= token_id < MAX_VOCABULARY:
            raise FormatError(f"{path}: token id {excerpt(token_id)} is out of range; download it again")
        if not 1 <= len(text) <= MAX_TOKEN_LENGTH:
            raise FormatError(f"{path}: token {token_id} has {len(text):,} characters; download it again")
    return Vocabulary(is_byte_level, texts, added)


def _read_merges(entries: list[Any], path: Path) -> list[tuple[str, str]]:
    pairs: list[Any] = [tuple(entry.split(" ") if isinstance(entry, str) else entry) for entry in entries]
    if not all(len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], str) for pair in pairs):
        raise FormatError(f"{path}: a merge is not two tokens; download it again")
    return pairs


def _stages(stage: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Walk the stages of a normalizer, pre-tokenizer, decoder or post-processor, one sequence deep."""
    if stage is not None:
        inner = ("pretokenizers", "decoders", "processors", "normalizers")
        yield from next((stage[name] for name in inner if name in stage), [stage])


def _after_a_token(pre_tokenizer: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the pre-tokenizer for text that follows a special token: there a first word is no longer the first."""
    stages = [
        {**stage, "prepend_scheme": "never"} if stage.get("prepend_scheme") == "first" else dict(stage)
        for stage in _stages(pre_tokenizer)
    ]
    return {"type": "Sequence", "pretokenizers": stages} if stages else None


def _takes_a_space(stage: Mapping[str, Any]) -> bool:
    if stage.get("type") == "Metaspace":
        return bool(stage.get("prepend_scheme", "always") != "never" and stage.get("add_prefix_space", True))
    return bool(stage.get("type") == "Strip" and stage.get("content") == " " and stage.get("start", 0) > 0)


def _with_ends(spec: TokenizerSpec, document: Mapping[str, Any], path: Path) -> TokenizerSpec:
    """Add the tokens that begin and end a text, which stand in four files."""
    names = ("tokenizer_config.json", "generation_config.json", "config.json")
    config, generation, model = (_read_json(path.parent / n) if (path.parent / n).is_file() else {} for n in names)
    ids = {text: token_id for token_id, text in spec.vocabulary.texts.items()}
    first = _first_of_template(document)
    bos_text = _token_text(config.get("bos_token")) or first
    bos_id = ids.get(bos_text) if bos_text else generation.get("bos_token_id", model.get("bos_token_id"))
    listed = _id_list(generation.get("eos_token_id")) + _id_list(model.get("eos_token_id"))
    eos_text = _token_text(config.get("eos_token"))
    eos_id = ids[eos_text] if eos_text in ids else next(iter(listed), None)
    eos_ids = {*listed, *_id_list(eos_id), *turn_ends(spec.vocabulary)}
    # Begin and end of text are special, whether they are listed as such or not.
    added = dict(spec.vocabulary.added)
    for token_id in eos_ids if bos_id is None else eos_ids | {bos_id}:
        text = spec.vocabulary.texts.get(token_id)
        if text is None:
            raise FormatError(
                f"{path.parent}: begin or end token {excerpt(token_id)} is not in {path.name}; download it again"
            )
        added[text] = replace(added.get(text, AddedText(token_id, is_special=True)), is_special=True)
    notes = () if eos_ids else (f"{path}: no token is named that ends a text; generation stops at its length only",)
    # What the tokenizer itself does outranks what its configuration says about it, as in transformers.
    add_bos = bos_id is not None and (first == bos_text if first else bool(config.get("add_bos_token")))
    return replace(
        spec,
        vocabulary=replace(spec.vocabulary, added=added),
        bos_id=bos_id,
        eos_id=eos_id,
        eos_ids=frozenset(eos_ids),
        add_bos=add_bos,
        notes=notes,
    )


def _first_of_template(document: Mapping[str, Any]) -> str | None:
    """Return the special token that the post-processor puts before a text."""
    for stage in _stages(document.get("post_processor")):
        if stage.get("type") == "TemplateProcessing" and "SpecialToken" in stage["single"][0]:
            return str(stage["single"][0]["SpecialToken"]["id"])
    return None


def _token_text(entry: Any) -> str | None:
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) else None


def _id_list(entry: Any) -> list[int]:
    return [] if entry is None else entry if isinstance(entry, list) else [entry]
