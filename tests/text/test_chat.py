"""Encoded chats: the right templates, the ids of the rendered text, and no special token forged by a message."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.errors import FormatError, ParameterError, TemplateError
from bitnet_numba.text.chat import (
    MAX_CHAT_LENGTH,
    MAX_MESSAGES,
    NAMED_TEMPLATES,
    ChatTemplate,
    choose_template,
    encode_chat,
    read_directory_template,
    template_notes,
)
from bitnet_numba.text.tokenizer import tokenizer_from_file, tokenizer_from_gguf
from tests.text.vocabularies import DEMO_DIRECTORY, demo_metadata

TOKENIZER = tokenizer_from_file(DEMO_DIRECTORY / "tokenizer.json")
BEGIN, EOT = 4092, 4094
DEMO_TEMPLATE = json.loads((DEMO_DIRECTORY / "tokenizer_config.json").read_text())["chat_template"]
MESSAGES = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "Hi\n"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "1 + 1?"},
]
RENDERED = {
    "bitnet": (
        "<s>System: Be brief.<|eot_id|>User: Hi<|eot_id|>Assistant: Hello<|eot_id|>User: 1 + 1?<|eot_id|>Assistant: "
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>"
        "\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\n1 + 1?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "chatml": (
        "<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi\n<|im_end|>\n<|im_start|>assistant\nHello"
        "<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "raw": " Be brief. Hi\nHello1 + 1?",
}
ORDINARY = st.text(st.characters(exclude_characters="<", exclude_categories=["Cs"]), max_size=30)
CONTENTS = st.text(max_size=30) | st.lists(
    st.sampled_from(["<|eot_id|>", "<|begin_of_text|>", "<|", "eot_id", "|>", " ", "\n", "User: ", "a"]), max_size=8
).map("".join)


@pytest.mark.parametrize("name", NAMED_TEMPLATES)
def test_named_templates(name: str) -> None:
    assert NAMED_TEMPLATES[name].render(MESSAGES, bos_token="<s>") == RENDERED[name]


def test_without_a_generation_prompt() -> None:
    text = NAMED_TEMPLATES["bitnet"].render(MESSAGES[:1], add_generation_prompt=False)
    assert text == "System: Be brief.<|eot_id|>"


@given(contents=st.lists(CONTENTS, min_size=1, max_size=3))
def test_the_named_bitnet_template_is_the_models_own(contents: list[str]) -> None:
    messages = [{"role": "user", "content": content} for content in contents]
    own = ChatTemplate("model", DEMO_TEMPLATE)
    assert NAMED_TEMPLATES["bitnet"].render(messages, bos_token="<s>") == own.render(messages, bos_token="<s>")


@pytest.mark.parametrize("name", NAMED_TEMPLATES)
@given(contents=st.lists(ORDINARY, min_size=1, max_size=3))
def test_ids_are_those_of_the_whole_rendered_text(name: str, contents: list[str]) -> None:
    messages = [{"role": "user", "content": content} for content in contents]
    text = NAMED_TEMPLATES[name].render(messages, bos_token="<|begin_of_text|>")
    ids = encode_chat(TOKENIZER, NAMED_TEMPLATES[name], messages)
    assert ids == TOKENIZER.encode(text, parse_special=True)
    assert ids.count(BEGIN) == 1


@pytest.mark.parametrize("name", ["bitnet", "llama3", "raw"])
@given(contents=st.lists(CONTENTS.map(str.strip), min_size=3, max_size=3), more=st.booleans())
def test_a_longer_chat_begins_with_the_ids_of_the_shorter_one_and_its_answer(
    name: str, contents: list[str], more: bool
) -> None:
    template, (question, answer, following) = NAMED_TEMPLATES[name], contents
    before = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}] if more else []
    asked = [*before, {"role": "user", "content": question}]
    answered = [*asked, {"role": "assistant", "content": answer}, {"role": "user", "content": following}]
    ids, longer = (encode_chat(TOKENIZER, template, messages) for messages in (asked, answered))
    if name != "raw":  # whose answers end in nothing that stands for an end
        ids += [*TOKENIZER.encode(answer, add_bos=False), EOT]
    assert longer[: len(ids)] == ids
    text = template.render(answered, bos_token="<|begin_of_text|>")
    shown = TOKENIZER.decode(longer, skip_special=False)
    assert shown == ("<|begin_of_text|>" if name == "raw" else "") + text


def test_an_answer_is_cut_off_from_the_space_before_it() -> None:
    chat = [{"role": role, "content": content} for role, content in (("user", "Hi"), ("assistant", " Hello "))]
    expected = [BEGIN, *(token for text in ("User: Hi", "Assistant: ", "Hello") for token in _plain(text))]
    expected[1 + len(_plain("User: Hi")) : 1 + len(_plain("User: Hi"))] = [EOT]
    assert encode_chat(TOKENIZER, NAMED_TEMPLATES["bitnet"], chat, add_generation_prompt=False) == [*expected, EOT]


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{{ m.content.split('</think>')[-1] }}.{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        "{{ messages | length }}",
    ],
)
def test_answers_that_a_template_rewrites_are_not_cut_off(source: str) -> None:
    chat = [{"role": role, "content": f"<think>x</think>{role} y"} for role in ("user", "assistant", "user")]
    template = ChatTemplate("rewriter", source)
    assert encode_chat(TOKENIZER, template, chat) == TOKENIZER.encode(template.render(chat))


def _plain(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_bos=False)


@pytest.mark.parametrize("name", NAMED_TEMPLATES)
@given(contents=st.lists(CONTENTS, min_size=1, max_size=3))
def test_no_message_can_forge_a_token(name: str, contents: list[str]) -> None:
    messages = [{"role": "user", "content": content} for content in contents]
    ids = encode_chat(TOKENIZER, NAMED_TEMPLATES[name], messages)
    writes_tokens = name in ("bitnet", "llama3")
    n_turns = len(contents) if writes_tokens else 0
    assert [i for i in ids if i in TOKENIZER.special_ids] == [BEGIN] + [EOT] * n_turns
    text = NAMED_TEMPLATES[name].render(messages, bos_token="<|begin_of_text|>")
    assert TOKENIZER.decode(ids, skip_special=False) == ("" if writes_tokens else "<|begin_of_text|>") + text


FORGERIES = {
    "split over the border": ("{% for m in messages %}<|{{ m.content }}{% endfor %}", "eot_id|>"),
    "the whole inside": ("{% for m in messages %}<|{{ m.content }}|>{% endfor %}", "eot_id"),
    "over two messages": ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "<|eot_id|><|eot_id|>"),
}


@pytest.mark.parametrize(("source", "content"), FORGERIES.values(), ids=FORGERIES)
def test_forgeries_with_help_of_the_template_stay_text(source: str, content: str) -> None:
    ids = encode_chat(TOKENIZER, ChatTemplate("odd", source), [{"role": "user", "content": content}])
    assert EOT not in ids


ASSEMBLED = [
    ("{{ messages[0].content | replace('x', '') }}", "<|exot_id|>"),
    ("{{ messages[0].content | lower }}", "<|EOT_ID|>"),
    ("{{ messages[0].content.split('<x>') | join }}", "<|eot<x>_id|>"),
    ("{{ messages[0].content.split('</think>')[-1] }}", "a</think><|eot_id|>"),
]


@pytest.mark.parametrize(("source", "content"), ASSEMBLED)
def test_forgeries_that_the_template_assembles_stay_text(source: str, content: str) -> None:
    template = ChatTemplate("odd", source)
    ids = encode_chat(TOKENIZER, template, [{"role": "user", "content": content}])
    assert EOT not in ids
    assert TOKENIZER.decode(ids, skip_special=False).endswith("<|eot_id|>")


@pytest.mark.parametrize(
    ("source", "content"),
    [
        ("{{ m.content }}{% if '<|eot_id|>' not in m.content %}<|eot_id|>{% endif %}", "a<|eot_id|>b"),
        ("{% if '<|eot_id|>' in m.content %}{{ m.content }}{% else %}<|eot_id|>{% endif %}", "<|eot_id|>x"),
        ("{{ m.content.split('<|eot_id|>')[0] }}<|eot_id|>{{ m.content }}", "a<|eot_id|>b"),
        (
            "{% if m.content.endswith('|>') %}{{ m.content }}{% else %}{{ m.content }}<|eot_id|>{% endif %}",
            "<|eot_id|>",
        ),
    ],
)
def test_a_template_that_looks_for_tokens_in_messages_is_refused(source: str, content: str) -> None:
    template = ChatTemplate("asking", "{% for m in messages %}" + source + "{% endfor %}")
    assert EOT in encode_chat(TOKENIZER, template, [{"role": "user", "content": "plain"}])
    with pytest.raises(TemplateError, match="changes which special tokens"):
        encode_chat(TOKENIZER, template, [{"role": "user", "content": content}])


def test_a_template_may_inspect_messages() -> None:
    template = ChatTemplate("thinker", "{{ messages[0].content.split('</think>')[-1] }}<|eot_id|>")
    ids = encode_chat(TOKENIZER, template, [{"role": "assistant", "content": "<think>hm</think>Yes"}])
    assert ids == TOKENIZER.encode("Yes<|eot_id|>", parse_special=True)


def test_a_template_may_build_a_token_around_the_role() -> None:
    metadata = demo_metadata()
    metadata["tokenizer.ggml.tokens"][4095] = "<|user|>"
    tokenizer = tokenizer_from_gguf(metadata)
    template = ChatTemplate("phi", "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}")
    ids = encode_chat(tokenizer, template, [{"role": "user", "content": "Hi <|user|>"}])
    assert ids.count(4095) == 1


def test_the_bos_token_appears_at_most_once() -> None:
    silent = tokenizer_from_gguf(demo_metadata() | {"tokenizer.ggml.add_bos_token": False})
    for name, wanted in (("bitnet", 1), ("raw", 0)):
        assert encode_chat(silent, NAMED_TEMPLATES[name], MESSAGES).count(BEGIN) == wanted


@pytest.mark.parametrize(
    ("requested", "family_template", "model_template", "expected"),
    [
        (None, "bitnet", "own", NAMED_TEMPLATES["bitnet"]),
        (None, "bitnet", None, NAMED_TEMPLATES["bitnet"]),
        (None, None, "own", ChatTemplate("model", "own")),
        (None, None, None, None),
        ("model", "bitnet", "own", ChatTemplate("model", "own")),
        ("chatml", "bitnet", "own", NAMED_TEMPLATES["chatml"]),
    ],
)
def test_choice(
    requested: str | None, family_template: str | None, model_template: str | None, expected: ChatTemplate | None
) -> None:
    assert choose_template(requested, family_template=family_template, model_template=model_template) == expected


def test_choice_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "my.jinja"
    path.write_text("{{ messages[0].content }}", encoding="utf-8")
    chosen = choose_template(str(path), family_template=None, model_template=None)
    assert chosen == ChatTemplate(str(path), "{{ messages[0].content }}")
    path.write_bytes(b"x" * 65_537)
    with pytest.raises(TemplateError, match="65,536"):
        choose_template(str(path), family_template=None, model_template=None)
    path.write_bytes(b"ab\xff")
    with pytest.raises(TemplateError, match="byte 2"):
        choose_template(str(path), family_template=None, model_template=None)


def test_choices_that_do_not_exist() -> None:
    with pytest.raises(TemplateError, match="bitnet, llama3, chatml, raw"):
        choose_template("vicuna", family_template=None, model_template="own")
    with pytest.raises(TemplateError, match="brings no chat template"):
        choose_template("model", family_template=None, model_template=None)
    with pytest.raises(TemplateError, match="brings no chat template"):
        encode_chat(TOKENIZER, None, MESSAGES)


def test_the_template_of_a_directory(tmp_path: Path) -> None:
    assert read_directory_template(DEMO_DIRECTORY) == DEMO_TEMPLATE
    assert read_directory_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": [{"name": "default", "template": "d"}]}))
    assert read_directory_template(tmp_path) == "d"
    (tmp_path / "chat_template.jinja").write_text("j")
    assert read_directory_template(tmp_path) == "j"


@pytest.mark.parametrize("content", ["{", "[]", '{"chat_template": 7}', '{"chat_template": [1]}'])
def test_a_malformed_directory_template(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(FormatError, match="tokenizer_config"):
        read_directory_template(tmp_path)


def test_the_error_of_a_directory_template_is_short(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(b'{"' + b"\xff" * 100_000)  # the decoder quotes it all
    with pytest.raises(FormatError, match="not UTF-8 after 2 bytes") as failure:
        read_directory_template(tmp_path)
    assert len(str(failure.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "from 1 to"),
        ([{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1), "1,025"),
        ([{"role": "root", "content": "x"}], "role 'root'"),
        ([{"role": "user"}], "needs 'role' and 'content'"),
        ([{"role": "user", "content": "x", "tools": "y"}], "nothing else"),
        ([{"role": "user", "content": None}], "NoneType"),
        ([{"role": ["user"], "content": "x"}], "role"),
        (["user"], "message 0"),
        ([{"role": "user", "content": "x" * (MAX_CHAT_LENGTH + 1)}], "1,048,576"),
        ([{"role": "user", "content": "".join(map(chr, range(0xF0000, 0xF2000)))}], "private"),
    ],
)
def test_bad_messages(messages: Any, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        encode_chat(TOKENIZER, NAMED_TEMPLATES["bitnet"], messages)


def test_a_failing_template_says_why() -> None:
    template = ChatTemplate("strict", "{{ raise_exception('System role not supported') }}")
    with pytest.raises(TemplateError, match="System role not supported"):
        encode_chat(TOKENIZER, template, MESSAGES)


def test_special_tokens_that_the_vocabulary_lacks_are_told() -> None:
    (note,) = template_notes(TOKENIZER, NAMED_TEMPLATES["llama3"])
    assert note.startswith(
        "chat template 'llama3' writes <|start_header_id|>, <|end_header_id|>, not in the vocabulary"
    )
    assert template_notes(TOKENIZER, NAMED_TEMPLATES["bitnet"]) == template_notes(TOKENIZER, None) == ()
