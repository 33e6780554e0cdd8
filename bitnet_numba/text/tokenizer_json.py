"""The one reader of tokenizer.json, for the engine's tokenizer and for export to GGUF; byte-pair encodings only."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bitnet_numba.errors import FormatError, UnsupportedError, excerpt
from bitnet_numba.formats.json_file import JsonObject, read_json, read_json_if_present
from bitnet_numba.text.stages import Stage, checked_stages
from bitnet_numba.text.vocabulary import (
    MAX_TOKEN_LENGTH,
    MAX_VOCABULARY,
    AddedText,
    TokenizerSpec,
    Vocabulary,
    turn_ends,
    with_special,
)

MAX_FILE_BYTES: Final = 128 * 2**20
_USE_GGUF: Final = "use the model's GGUF file"

Merge = tuple[str, str]


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """The contents of a tokenizer.json; made by :func:`read_tokenizer_file`."""

    document: JsonObject
    model: JsonObject  # its byte-pair encoding
    words: dict[str, int]  # ids of the tokens of the model
    merges: list[Merge]  # in order of rank
    added: list[JsonObject]  # tokens beside those of the model, ``id`` and ``content`` checked

    @property
    def place(self) -> str:
        """The file, for messages."""
        return self.document.place

    def steps(self, stage: str) -> list[JsonObject]:
        """Return the steps of a normalizer, pre_tokenizer, decoder or post_processor, one sequence deep."""
        outer = self.document.inner(stage)
        for key in ("pretokenizers", "decoders", "processors", "normalizers"):
            if key in outer.values:
                return outer.objects(key)
        return [outer] if outer.values else []

    def first_token(self) -> str:
        """Return the special token that the post-processor puts before a text; empty for none."""
        for step in self.steps("post_processor"):
            first = step.objects("single")[:1] if step.text("type", "") == "TemplateProcessing" else []
            if first and "SpecialToken" in first[0].values:
                return first[0].inner("SpecialToken").text("id")
        return ""


# ---- the file --------------------------------------------------------------------------------------------------------
def read_tokenizer_file(path: Path) -> TokenizerFile:
    """Read a tokenizer.json; FormatError if it is missing or malformed, UnsupportedError if it is no BPE."""
    absent = "get it with the rest of the model; a tokenizer.model alone is not read"
    return tokenizer_file(read_json(path, max_bytes=MAX_FILE_BYTES, if_missing=absent))


def tokenizer_file(document: JsonObject) -> TokenizerFile:
    """Check the contents of a tokenizer.json; raises as :func:`read_tokenizer_file`."""
    model = document.inner("model")
    kind = model.text("type", "BPE")
    if kind != "BPE":
        raise UnsupportedError(
            f"{document.place}: a tokenizer of type {excerpt(kind)}: only byte-pair encodings are read; {_USE_GGUF}"
        )
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.values.get(key):
            raise UnsupportedError(f"{model.place}: {key} = {excerpt(model.values[key])} is not read; {_USE_GGUF}")
    words = model.inner("vocab").values
    if not words:
        raise FormatError(f"{document.place}: not a tokenizer.json: its model has no tokens; get the file again")
    for text, token_id in words.items():
        if type(token_id) is not int or not 0 <= token_id < MAX_VOCABULARY or not 1 <= len(text) <= MAX_TOKEN_LENGTH:
            raise _token_error(document.place, text, token_id)
    if len(set(words.values())) != len(words):
        raise FormatError(f"{document.place}: two tokens of the vocabulary share an id; get the file again")
    return TokenizerFile(document, model, words, _read_merges(model), _read_added(document, words))


def _token_error(place: str, text: str, token_id: object) -> FormatError:
    if 1 <= len(text) <= MAX_TOKEN_LENGTH:
        return FormatError(f"{place}: token id {excerpt(token_id)} is out of range; get the file again")
    return FormatError(
        f"{place}: token {excerpt(token_id)} has {len(text):,} characters, expected 1 to {MAX_TOKEN_LENGTH:,}; "
        "get the file again"
    )


def _read_merges(model: JsonObject) -> list[Merge]:
    """Return the merges, which older files write as one string."""
    merges = []
    for entry in model.items("merges"):
        pair = entry.split(" ") if type(entry) is str else entry
        if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not str:
            raise model.error("merges", pair, "pairs of two tokens")
        merges.append((pair[0], pair[1]))
    return merges


def _read_added(document: JsonObject, words: dict[str, int]) -> list[JsonObject]:
    texts = {token_id: text for text, token_id in words.items()}
    added = document.objects("added_tokens")
    for token in added:
        text, token_id = token.text("content"), token.natural("id")
        if not (token_id < MAX_VOCABULARY and 1 <= len(text) <= MAX_TOKEN_LENGTH):
            raise _token_error(token.place, text, token_id)
        if texts.setdefault(token_id, text) != text:
            raise token.error("id", token_id, "an id of its own")
    return added


# ---- the specification of the tokenizer ------------------------------------------------------------------------------
def spec_from_file(path: Path) -> TokenizerSpec:
    """Read a tokenizer.json, with ``tokenizer_config.json``, ``generation_config.json`` and ``config.json`` beside it.

    Raises as :func:`read_tokenizer_file`, and an UnsupportedError if text is split in a way that is not supported.
    """
    file = read_tokenizer_file(path)
    model = file.model
    kinds = [step.text("type", "") for stage in ("pre_tokenizer", "decoder") for step in file.steps(stage)]
    is_byte_level = "ByteLevel" in kinds
    byte_fallback = model.flag("byte_fallback", default=False)
    if not (is_byte_level or byte_fallback):
        raise UnsupportedError(f"{path}: neither byte-level nor with byte fallback; {_USE_GGUF}")
    normalizers, splitters = (checked_stages(file.document, stage) for stage in ("normalizer", "pre_tokenizer"))
    vocabulary = _vocabulary(file, is_byte_level)
    unknown = model.text("unk_token", "")
    spec = TokenizerSpec(
        vocabulary,
        file.merges,
        normalizer={"type": "Sequence", "normalizers": normalizers} if normalizers else None,
        pre_tokenizer=_sequence(splitters),
        later_pre_tokenizer=_sequence(_after_a_token(splitters)),
        ignore_merges=model.flag("ignore_merges", default=False),
        byte_fallback=byte_fallback,
        unknown=unknown if unknown in vocabulary.texts.values() else None,
        drops_space=any(map(_takes_a_space, file.steps("decoder"))),
    )
    return _with_ends(spec, file, path)


def _vocabulary(file: TokenizerFile, is_byte_level: bool) -> Vocabulary:
    texts = {token_id: text for text, token_id in file.words.items()}
    added = {}
    for token in file.added:
        text, token_id = token.text("content"), token.natural("id")
        special, lstrip, rstrip, single_word = (
            token.flag(key, default=False) for key in ("special", "lstrip", "rstrip", "single_word")
        )
        if single_word:
            raise UnsupportedError(f"{token.place}: {excerpt(text)} matches whole words only; {_USE_GGUF}")
        texts[token_id] = text
        added[text] = AddedText(token_id, special, lstrip, rstrip)
    return Vocabulary(is_byte_level, texts, added)


def _sequence(steps: list[Stage]) -> Stage | None:
    return {"type": "Sequence", "pretokenizers": steps} if steps else None


def _after_a_token(steps: list[Stage]) -> list[Stage]:
    """Return the pre-tokenizer for text that follows a special token: there a first word is no longer the first."""
    return [{**step, "prepend_scheme": "never"} if step.get("prepend_scheme") == "first" else step for step in steps]


def _takes_a_space(step: JsonObject) -> bool:
    kind = step.text("type", "")
    if kind == "Metaspace":
        return step.text("prepend_scheme", "always") != "never" and step.flag("add_prefix_space", default=True)
    return kind == "Strip" and step.text("content", "") == " " and any(step.naturals("start"))


def _with_ends(spec: TokenizerSpec, file: TokenizerFile, path: Path) -> TokenizerSpec:
    """Add the tokens that begin and end a text, which four files name."""
    names = ("tokenizer_config.json", "generation_config.json", "config.json")
    config, generation, model = (read_json_if_present(path.parent / name) for name in names)
    ids = {text: token_id for token_id, text in spec.vocabulary.texts.items()}
    first = file.first_token()
    bos_text = _token_text(config, "bos_token") or first
    listed = [*generation.naturals("bos_token_id"), *model.naturals("bos_token_id")]
    bos_id = ids.get(bos_text) if bos_text else next(iter(listed), None)
    listed = [*generation.naturals("eos_token_id"), *model.naturals("eos_token_id")]
    eos_id = ids.get(_token_text(config, "eos_token"), next(iter(listed), None))
    eos_ids = {*listed, *turn_ends(spec.vocabulary)} | (set() if eos_id is None else {eos_id})
    named = eos_ids if bos_id is None else eos_ids | {bos_id}
    missing = named - spec.vocabulary.texts.keys()
    if missing:
        problem = f"begin or end token {min(missing)} is not in {path.name}"
        raise FormatError(f"{path.parent}: {problem}; get the files again")
    notes = () if eos_ids else (f"{path}: no token is named that ends a text; generation stops at its length only",)
    # The tokenizer itself outranks its configuration, as in transformers.
    add_bos = bos_id is not None and (first == bos_text if first else config.flag("add_bos_token", default=False))
    return replace(
        spec,
        vocabulary=with_special(spec.vocabulary, named, file.merges),
        bos_id=bos_id,
        eos_id=eos_id,
        eos_ids=frozenset(eos_ids),
        add_bos=add_bos,
        notes=notes,
    )


def _token_text(config: JsonObject, key: str) -> str:
    """Return a token that a configuration names by its text, or by an object with its content; empty for none."""
    entry = config.values.get(key)
    return config.inner(key).text("content", "") if isinstance(entry, dict) else config.text(key, "")
