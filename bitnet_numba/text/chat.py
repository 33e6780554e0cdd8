"""Encode chats with a model's template; no message can inject special tokens."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

from bitnet_numba.errors import FormatError, ParameterError, TemplateError
from bitnet_numba.files import open_regular
from bitnet_numba.formats.json_file import read_json_if_present
from bitnet_numba.text.tokenizer import SpecialSpan, Tokenizer

ROLES: Final = ("system", "user", "assistant")
MAX_MESSAGES: Final = 1024
MAX_CHAT_LENGTH: Final = 2**20
MAX_TEMPLATE_BYTES: Final = 64 * 2**10

# As Llama 3, Qwen, Falcon and DeepSeek spell them, and Llama 2 and Gemma.
_SPELLED_TOKEN: Final = re.compile(r"<\|[\w-]{1,64}\|>|<\uff5c[^<>\uff5c\s]{1,64}\uff5c>|</?s>|<(?:start|end)_of_turn>")
_BARS: Final = "|\uff5c"
_PRIVATE_CHARACTERS: Final = range(0xF0000, 0xF2000)

Messages = Sequence[Mapping[str, str]]
Render = Callable[[Messages], str]


@dataclass(frozen=True)
class ChatTemplate:
    """A jinja2 chat template, and the name or file it was chosen by."""

    name: str
    source: str

    def render(
        self,
        messages: Messages,
        *,
        add_generation_prompt: bool = True,
        bos_token: str = "",
        eos_token: str = "",
        now: datetime | None = None,
    ) -> str:
        """Return the chat as one text; ``now`` is what ``strftime_now`` tells, by default the time of the call.

        Raises a ParameterError if the messages are invalid, too many or too long, a TemplateError if the template fails
        or uses what is not allowed.
        """
        from bitnet_numba.text.sandbox.environment import render_template  # here, because it imports jinja2

        variables = {
            "messages": _checked(messages),
            "add_generation_prompt": add_generation_prompt,
            "bos_token": bos_token,
            "eos_token": eos_token,
        }
        return render_template(self.source, variables, now)


NAMED_TEMPLATES: Final = {
    name: ChatTemplate(name, source)
    for name, source in {
        "bitnet": (
            "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
            "{{ message.role | capitalize }}: {{ message.content | trim }}<|eot_id|>{% endfor %}"
            "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
        ),
        "llama3": (
            "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
            "{{ '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\n\n' }}"
            "{{ message.content | trim }}<|eot_id|>{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
        ),
        "chatml": (
            "{% for message in messages %}"
            "{{ '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
        ),
        "raw": "{% for message in messages %}{{ message.content }}{% endfor %}",
    }.items()
}
_NO_TEMPLATE: Final = f"the model brings no chat template; choose one of {', '.join(NAMED_TEMPLATES)}"


def choose_template(
    requested: str | None, *, family_template: str | None, model_template: str | None
) -> ChatTemplate | None:
    """Choose the chat template of a model, or None if nothing is requested and it has none.

    ``requested`` is a name of :data:`NAMED_TEMPLATES`, a file, ``"model"`` (the template in the model's files, whose
    source is ``model_template``), or None: the family's, else the model's. TemplateError if there is no such template.
    """
    if requested is None and family_template is not None:
        return NAMED_TEMPLATES[family_template]
    if requested is None and model_template is None:
        return None
    if requested is None or requested == "model":
        if model_template is None:
            raise TemplateError(_NO_TEMPLATE)
        return ChatTemplate("model", model_template)
    return NAMED_TEMPLATES.get(requested) or _template_from_file(requested)


def read_directory_template(directory: Path) -> str | None:
    """Return the chat template of a Hugging Face model directory, or None if it has none.

    It stands in ``chat_template.jinja``, or in ``tokenizer_config.json``: as text, or as a list of named ones. Raises a
    FormatError if that file is malformed.
    """
    own_file = directory / "chat_template.jinja"
    if own_file.is_file():
        return _template_from_file(str(own_file)).source
    settings = read_json_if_present(directory / "tokenizer_config.json")
    template = settings.values.get("chat_template")
    if isinstance(template, list):
        named = {entry.text("name"): entry.text("template") for entry in settings.objects("chat_template")}
        template = named.get("default")
    if not isinstance(template, str | None):
        raise FormatError(f"{settings.place}: chat_template is not text; choose one with --chat-template")
    return template


def template_notes(tokenizer: Tokenizer, template: ChatTemplate | None) -> tuple[str, ...]:
    """Return a note if a template spells special tokens that the vocabulary does not have."""
    spelled = dict.fromkeys(_SPELLED_TOKEN.findall("" if template is None else template.source))
    missing = [text for text in spelled if tokenizer.token_id(text) is None]
    if template is None or not missing:
        return ()
    shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    problem = f"chat template {template.name!r} writes {shown}, not in the vocabulary, and read as plain text"
    return (f"{problem}; --chat-template chooses another",)


def encode_chat(
    tokenizer: Tokenizer, template: ChatTemplate | None, messages: Messages, *, add_generation_prompt: bool = True
) -> list[int]:
    """Return the token ids of a chat.

    Special tokens come from the template only: a message stays plain text, even if it holds ``<|eot_id|>``. The ids are
    those of the rendered text, but no token crosses the start of an answer, as none did when the answer was generated:
    so a longer chat begins with the ids of a shorter one. The BOS token appears once if the model uses one, whether or
    not the template writes it. Raises as :meth:`ChatTemplate.render`, and a TemplateError if there is no template or a
    message changes which special tokens it writes.
    """
    if template is None:
        raise TemplateError(_NO_TEMPLATE)
    render = partial(
        template.render,
        add_generation_prompt=add_generation_prompt,
        bos_token="" if tokenizer.bos_id is None else tokenizer.token_text(tokenizer.bos_id),
        eos_token="" if tokenizer.eos_id is None else tokenizer.token_text(tokenizer.eos_id),
        now=datetime.now(),  # one time for all renderings of a chat, which are compared
    )
    text = render(messages)
    spans = _template_spans(tokenizer, render, messages, text)
    if spans is None:
        raise TemplateError(
            f"chat template {template.name!r}: a message changes which special tokens it writes; "
            "remove the markup from the message or choose another template"
        )
    return tokenizer.with_bos(tokenizer.encode_spans(text, spans, _answer_starts(render, messages, text)))


def _answer_starts(render: Render, messages: Messages, text: str) -> list[int]:
    """Return where the answers start in ``text``, as far as the template writes them unchanged or stripped.

    The chat is rendered again with a private character instead of each answer, which marks the text between them.
    """
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    mark = next((chr(code) for code in _PRIVATE_CHARACTERS if chr(code) not in text), None)
    if not answers or mark is None:
        return []
    marked = [{**message, "content": mark} if message["role"] == "assistant" else message for message in messages]
    between = render(marked).split(mark)
    starts: list[int] = []
    end = 0
    for answer, before, after in zip(answers, between, between[1:], strict=False):
        start = end + len(before)
        written = next((a for a in (answer, answer.strip()) if text.startswith(before + a + after, end)), None)
        if written is None:
            break
        starts.append(start)
        end = start + len(written)
    return starts


def _template_spans(tokenizer: Tokenizer, render: Render, messages: Messages, text: str) -> list[SpecialSpan] | None:
    """Return the special tokens in ``text`` that the template wrote itself, or None if that cannot be told.

    The chat is rendered again with all characters of special tokens in the messages replaced by private ones: a special
    token that is still there is the template's. Its place is that in ``text`` if the rendering is otherwise the same.
    A template that inspects messages may render another text. Then it must write the same special tokens, and their
    places come from a rendering in which only those characters are replaced without which no special token is
    complete: a template that asks for a special token in a message finds none in it, and is refused.
    """
    spelled = [tokenizer.token_text(token_id) for token_id in tokenizer.special_ids]
    all_characters = {character for token in spelled for character in token + token.lower() + token.upper()}
    whole, is_same = _rendered_with(render, messages, text, all_characters)
    own = tokenizer.find_special(whole)
    if is_same:
        return own
    broken, is_same = _rendered_with(render, messages, text, _needed_characters(spelled))
    spans = tokenizer.find_special(broken)
    same_tokens = [span.token_id for span in spans] == [span.token_id for span in own]
    return spans if is_same and same_tokens else None


def _rendered_with(render: Render, messages: Messages, text: str, characters: set[str]) -> tuple[str, bool]:
    """Render with these characters of the messages replaced by private ones, and tell if it is ``text`` otherwise."""
    codes = sorted(ord(character) for character in characters if not character.isspace())
    present = {ord(character) for message in messages for character in message["content"]}
    private = [code for code in _PRIVATE_CHARACTERS if code not in present]
    if len(private) < len(codes):
        raise ParameterError("messages: they hold too many private Unicode characters; remove those from U+F0000 on")
    substitutes = dict(zip(codes, private, strict=False))
    replaced = [{**message, "content": message["content"].translate(substitutes)} for message in messages]
    rendered = render(replaced)
    return rendered, rendered.translate({new: old for old, new in substitutes.items()}) == text


def _needed_characters(spelled: Sequence[str]) -> set[str]:
    """Return a few characters of which every special token has one, in both cases; rather bars than brackets."""
    needed: set[str] = set()
    for token in sorted(spelled, key=len):
        if not needed & set(token):
            bars = [mark for mark in _BARS if mark in token]
            mark = (bars or [each for each in token if not each.isalnum()] or token)[0]
            needed |= {mark, mark.lower(), mark.upper()}
    return needed


def _checked(messages: Messages) -> list[dict[str, str]]:
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise ParameterError(f"messages: {len(messages):,} of them; from 1 to {MAX_MESSAGES:,} can be rendered")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.keys() != {"role", "content"}:
            raise ParameterError(f"message {number}: needs 'role' and 'content', and nothing else")
        if message["role"] not in ROLES:
            raise ParameterError(f"message {number}: role {message['role']!r}; use one of {', '.join(ROLES)}")
        if not isinstance(message["content"], str):
            raise ParameterError(f"message {number}: content must be text, not {type(message['content']).__name__}")
    length = sum(len(message["content"]) for message in messages)
    if length > MAX_CHAT_LENGTH:
        raise ParameterError(f"messages: {length:,} characters together; at most {MAX_CHAT_LENGTH:,}: shorten the chat")
    return [dict(message) for message in messages]


def _template_from_file(name: str) -> ChatTemplate:
    path = Path(name)
    if not path.is_file():
        raise TemplateError(f"{name}: no such template or file; known are model, {', '.join(NAMED_TEMPLATES)}")
    if path.stat().st_size > MAX_TEMPLATE_BYTES:
        raise TemplateError(
            f"{name}: {path.stat().st_size:,} bytes; a chat template has at most {MAX_TEMPLATE_BYTES:,}"
        )
    try:
        with open_regular(path) as file:
            return ChatTemplate(name, file.read(MAX_TEMPLATE_BYTES).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise TemplateError(f"{name}: byte {error.start} is not UTF-8; a chat template is a text file") from error
