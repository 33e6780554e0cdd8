"""What becomes of a tokenizer's files, beyond the plain case."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from bitnet_numba.export.gguf import export_gguf
from bitnet_numba.export.vocabulary import vocabulary_metadata
from bitnet_numba.formats.gguf import open_gguf
from bitnet_numba.formats.json_file import JsonObject
from bitnet_numba.text.tokenizer import tokenizer_from_file, tokenizer_from_gguf
from bitnet_numba.text.tokenizer_json import TokenizerFile, read_tokenizer_file, tokenizer_file
from bitnet_numba.text.vocabulary import TokenType
from tests.export.llama2 import llama2_tokenizer
from tests.tiny import toy_checkpoint
from tests.tiny_files import BEGIN, END, END_OF_TURN, MIN_VOCABULARY, PAD, SPECIAL, HuggingFaceModel

DEMO_TOKENIZER = Path(__file__).parents[2] / "bench" / "demo_model" / "checkpoint" / "tokenizer.json"


def metadata_of(checkpoint: HuggingFaceModel, folder: Path) -> dict[str, Any]:
    export_gguf(checkpoint.write(folder / "toy"), folder / "toy.gguf")
    with open_gguf(folder / "toy.gguf") as file:
        return file.metadata


def toy_file(document: dict[str, Any]) -> TokenizerFile:
    return tokenizer_file(JsonObject("toy", document))


def test_tokens_are_those_of_the_tokenizers_library() -> None:
    vocabulary = vocabulary_metadata(read_tokenizer_file(DEMO_TOKENIZER), 4096)
    tokenizer = Tokenizer.from_file(str(DEMO_TOKENIZER))
    assert vocabulary["tokenizer.ggml.tokens"] == [tokenizer.id_to_token(token_id) for token_id in range(4096)]
    special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    kinds = vocabulary["tokenizer.ggml.token_type"]
    assert {token_id for token_id, kind in enumerate(kinds) if kind == TokenType.CONTROL} == special
    assert vocabulary["tokenizer.ggml.pre"] == "llama-bpe"


def test_merges_of_older_files_are_strings() -> None:
    checkpoint = toy_checkpoint()
    new = vocabulary_metadata(toy_file(checkpoint.tokenizer), MIN_VOCABULARY)
    checkpoint.tokenizer["model"]["merges"] = ["h e", "l l", "he ll", "hell o"]
    assert vocabulary_metadata(toy_file(checkpoint.tokenizer), MIN_VOCABULARY) == new


def test_a_vocabulary_without_merges_is_one_token_a_byte(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    checkpoint.tokenizer["model"]["merges"] = []
    assert metadata_of(checkpoint, tmp_path)["tokenizer.ggml.merges"] == []


def test_an_added_token_that_is_not_special_is_user_defined() -> None:
    checkpoint = toy_checkpoint()
    checkpoint.tokenizer["added_tokens"][-1]["special"] = False
    keys = vocabulary_metadata(toy_file(checkpoint.tokenizer), MIN_VOCABULARY)
    assert keys["tokenizer.ggml.token_type"][PAD] == TokenType.USER_DEFINED


def test_the_rule_of_gpt2_has_its_name() -> None:
    tokenizer = toy_checkpoint().tokenizer
    tokenizer["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False}
    tokenizer["model"]["ignore_merges"] = False
    assert vocabulary_metadata(toy_file(tokenizer), MIN_VOCABULARY)["tokenizer.ggml.pre"] == "gpt-2"


def test_merges_that_lead_to_every_token_may_be_ignored_or_not() -> None:
    tokenizer = toy_checkpoint().tokenizer
    tokenizer["model"]["ignore_merges"] = False
    assert vocabulary_metadata(toy_file(tokenizer), MIN_VOCABULARY)["tokenizer.ggml.pre"] == "llama-bpe"


@pytest.mark.parametrize(("begins", "expected"), [(True, True), (False, False)])
def test_without_a_setting_the_post_processor_tells_whether_a_text_begins_with_bos(
    tmp_path: Path, begins: bool, expected: bool
) -> None:
    checkpoint = toy_checkpoint()
    checkpoint.files["tokenizer_config.json"] = {}
    if not begins:
        checkpoint.tokenizer["post_processor"]["single"].pop(0)
    assert metadata_of(checkpoint, tmp_path)["tokenizer.ggml.add_bos_token"] is expected


def test_a_post_processor_in_a_sequence_is_found(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    checkpoint.files["tokenizer_config.json"] = {}
    inner = checkpoint.tokenizer["post_processor"]
    checkpoint.tokenizer["post_processor"] = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, inner]}
    assert metadata_of(checkpoint, tmp_path)["tokenizer.ggml.add_bos_token"] is True


def test_a_template_file_wins_over_the_setting(tmp_path: Path) -> None:
    source = toy_checkpoint().write(tmp_path / "toy")
    (source / "chat_template.jinja").write_text("{{ bos_token }}", encoding="utf-8")
    export_gguf(source, tmp_path / "toy.gguf")
    with open_gguf(tmp_path / "toy.gguf") as file:
        assert file.metadata["tokenizer.chat_template"] == "{{ bos_token }}"


def test_keys_without_a_source_are_left_out(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    for name in ("generation_config.json", "tokenizer_config.json"):
        del checkpoint.files[name]
    metadata = metadata_of(checkpoint, tmp_path)
    assert metadata["tokenizer.ggml.eos_token_id"] == END
    absent = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.padding_token_id", "tokenizer.chat_template"}
    assert absent.isdisjoint(metadata)


def test_the_end_of_a_message_has_its_own_key(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    checkpoint.tokenizer["added_tokens"][PAD - BEGIN]["content"] = "<|eom_id|>"
    checkpoint.files["generation_config.json"] = {"eos_token_id": [END, PAD, END_OF_TURN]}
    metadata = metadata_of(checkpoint, tmp_path)
    assert metadata["tokenizer.ggml.eom_token_id"] == PAD
    assert metadata["tokenizer.ggml.eot_token_id"] == END_OF_TURN
    assert SPECIAL[END - BEGIN] == metadata["tokenizer.ggml.tokens"][metadata["tokenizer.ggml.eos_token_id"]]


def test_rows_without_a_token_become_unused_tokens(tmp_path: Path) -> None:
    checkpoint = toy_checkpoint()
    checkpoint.tokenizer["added_tokens"].pop()
    del checkpoint.files["generation_config.json"]["pad_token_id"]
    metadata = metadata_of(checkpoint, tmp_path)
    assert metadata["tokenizer.ggml.tokens"][PAD] == f"[PAD{PAD}]"
    assert metadata["tokenizer.ggml.token_type"][PAD] == TokenType.UNUSED
    from_gguf, from_json = tokenizer_from_gguf(metadata), tokenizer_from_file(tmp_path / "toy" / "tokenizer.json")
    for text in ("hello", f"a[PAD{PAD}]<|eot_id|>"):
        assert from_gguf.encode(text, parse_special=True) == from_json.encode(text, parse_special=True)


def test_rows_without_a_token_in_the_way_of_llama_2() -> None:
    file = toy_file(llama2_tokenizer())
    n_tokens = 1 + max(token["id"] for token in file.document.values["added_tokens"])
    keys = vocabulary_metadata(file, n_tokens + 2)
    assert keys["tokenizer.ggml.tokens"][n_tokens:] == [f"[PAD{n_tokens}]", f"[PAD{n_tokens + 1}]"]
    assert keys["tokenizer.ggml.token_type"][n_tokens:] == [TokenType.UNUSED] * 2
    assert len(keys["tokenizer.ggml.scores"]) == n_tokens + 2
