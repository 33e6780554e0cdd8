"""The template sandbox: real templates render, attacks are refused early."""

import contextlib
import tracemalloc
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.errors import TemplateError
from bitnet_numba.text.sandbox.environment import render_template
from tests.text.template_cases import ATTACKS, EXPRESSIONS, LLAMA31, MESSAGES, PIECES, REAL_TEMPLATES

NOW = datetime(2031, 3, 7, 9, 5)


def render(source: str, **variables: Any) -> str:
    values = {"messages": MESSAGES, "bos_token": "<s>", "text": "x" * 1_000_000, **variables}
    return render_template(source, values, NOW)


@pytest.mark.parametrize(("source", "expected"), REAL_TEMPLATES.values(), ids=REAL_TEMPLATES)
def test_real_templates(source: str, expected: str) -> None:
    assert render(source, add_generation_prompt=True) == expected


@pytest.mark.parametrize(("source", "expected"), EXPRESSIONS.items())
def test_expressions(source: str, expected: str) -> None:
    assert render(source) == expected


@pytest.mark.parametrize(("source", "reason"), ATTACKS.values(), ids=ATTACKS)
def test_attacks_are_refused(source: str, reason: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TemplateError) as caught:
            render(source)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert reason in message
    assert message.startswith("chat template")
    assert message.isprintable()
    assert len(message) < 600
    assert peak < 64 * 2**20


def test_names_the_line_of_a_failure() -> None:
    with pytest.raises(TemplateError, match="line 3: 'x' is undefined"):
        render("a\n\n{{ x.y }}")


def test_blocks_are_trimmed() -> None:
    assert render("  {% if true %}\n  x\n  {% endif %}\ny") == "  x\ny"


def test_a_long_chat_fits() -> None:
    messages = [{"role": ("user", "assistant")[i % 2], "content": "word " * 100} for i in range(1024)]
    text = render_template(LLAMA31, {"messages": messages, "bos_token": "<s>", "add_generation_prompt": True})
    assert text.count("<|eot_id|>") == 1025


def test_renders_the_same_again() -> None:
    source = "{% for i in range(9000) %}{{ i % 10 }}{% endfor %}"
    assert render(source) == render(source)


@given(source=st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_any_source_renders_or_is_refused(source: str) -> None:
    with contextlib.suppress(TemplateError):
        assert isinstance(render(source), str)
