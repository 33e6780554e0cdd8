"""Which tokens begin, end and pad a text, and the chat template, from the files beside a tokenizer.json."""

from collections.abc import Iterable
from pathlib import Path

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.export.json_file import JsonObject, as_object, read_json_if_present, read_text
from bitnet_numba.export.vocabulary import Vocabulary

TURN_ENDS = {"<|eot_id|>": "eot", "<|im_end|>": "eot", "<|eom_id|>": "eom"}


def special_token_metadata(
    directory: Path, config: JsonObject, tokenizer: JsonObject, vocabulary: Vocabulary
) -> dict[str, int | bool | str]:
    """Return the GGUF keys for special ids, for whether a text begins with one, and for the chat template.

    Parameters
    ----------
    directory : Path
        Of the checkpoint; ``generation_config.json``, ``tokenizer_config.json`` and ``chat_template.jinja`` are read
        where they exist.
    config, tokenizer : JsonObject
        Its ``config.json`` and ``tokenizer.json``.
    vocabulary : Vocabulary

    Raises
    ------
    FormatError
        If an id is no token, or a value is malformed.
    UnsupportedError
        If generation ends at more kinds of tokens than GGUF has keys for.
    """
    generation = read_json_if_present(directory / "generation_config.json")
    settings = read_json_if_present(directory / "tokenizer_config.json")
    begin = config.natural("bos_token_id")
    ends = [*_ids(config, "eos_token_id"), *_ids(generation, "eos_token_id")]
    if not ends:
        raise config.error("eos_token_id", None, "the token that ends a text")
    ids = {"bos": begin} | _end_ids(directory, ends, vocabulary)
    padding = [*_ids(config, "pad_token_id"), *_ids(generation, "pad_token_id")]
    if padding:
        ids["padding"] = padding[0]
    for name, token_id in ids.items():
        if token_id >= len(vocabulary.tokens):
            raise FormatError(
                f"{directory}: the {name} token {token_id:,} is not in the vocabulary; get the checkpoint's own files"
            )
    add_begin = settings.flag("add_bos_token", default=_template_begins_with(tokenizer, vocabulary.tokens[begin]))
    keys: dict[str, int | bool | str] = {f"tokenizer.ggml.{name}_token_id": token_id for name, token_id in ids.items()}
    keys["tokenizer.ggml.add_bos_token"] = add_begin
    template = _chat_template(directory, settings)
    return keys | ({"tokenizer.chat_template": template} if template else {})


def _ids(file: JsonObject, key: str) -> list[int]:
    """Return the ids under a key that holds one, several or none."""
    value = file.values.get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(item, bool) or not isinstance(item, int) or item < 0 for item in ids):
        raise file.error(key, value, "token ids")
    return ids


def _end_ids(directory: Path, ends: Iterable[int], vocabulary: Vocabulary) -> dict[str, int]:
    """Share out the ids at which generation ends: of the text, of a turn, of a message."""
    named: dict[str, int] = {}
    for token_id in dict.fromkeys(ends):
        text = vocabulary.tokens[token_id] if token_id < len(vocabulary.tokens) else ""
        name = "eos" if not named else TURN_ENDS.get(text, "eot")
        if name in named:
            raise UnsupportedError(
                f"{directory}: eos_token_id names token {token_id:,} too, for which GGUF has no key; "
                "remove it from config.json and generation_config.json"
            )
        named[name] = token_id
    return named


def _template_begins_with(tokenizer: JsonObject, begin: str) -> bool:
    """Tell whether the tokenizer itself puts ``begin`` before a text."""
    processor = tokenizer.inner("post_processor")
    steps = [as_object(processor.place, step) for step in processor.items("processors")] or [processor]
    return any(step.items("single")[:1] == [{"SpecialToken": {"id": begin, "type_id": 0}}] for step in steps)


def _chat_template(directory: Path, settings: JsonObject) -> str:
    """Return the chat template, which newer checkpoints keep in a file of its own; empty where there is none."""
    file = directory / "chat_template.jinja"
    return read_text(file) if file.exists() else settings.text("chat_template", "")
