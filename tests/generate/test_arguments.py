"""How Python programs state what they want: parameters as keywords or as one object, and what wrong ones are told."""

from typing import Any

import numpy as np
import pytest

import bitnet_numba
from bitnet_numba import LanguageModel, ParameterError, SamplingParams

PROMPT = "Once upon a time"


def test_parameters_are_keywords_or_an_object(demo: LanguageModel) -> None:
    params = SamplingParams(max_tokens=6, temperature=0.7, seed=3)
    expected = demo.generate(PROMPT, max_tokens=6, temperature=0.7, seed=3).text
    assert demo.generate(PROMPT, params).text == expected
    assert "".join(chunk.text for chunk in demo.stream(PROMPT, params=params)) == expected
    assert demo.generate_batch([PROMPT, PROMPT], params)[1].text == expected
    messages = [{"role": "user", "content": PROMPT}]
    streamed = "".join(chunk.text for chunk in demo.stream_chat(messages, params))
    assert demo.chat(messages, params).text == streamed


def test_each_prompt_of_a_batch_may_have_its_own(demo: LanguageModel) -> None:
    each = [SamplingParams(max_tokens=n, temperature=1.0, seed=n) for n in (3, 5, 7)]
    together = demo.generate_batch([PROMPT] * 3, each)
    alone = [demo.generate(PROMPT, params) for params in each]
    assert [result.token_ids for result in together] == [result.token_ids for result in alone]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("max_new_tokens", "max_new_tokens: no such parameter; did you mean max_tokens?"),
        ("n_predict", "did you mean max_tokens?"),
        ("temp", "did you mean temperature?"),
        ("temprature", "did you mean temperature?"),
        ("repeat_penalty", "did you mean repetition_penalty?"),
        ("stop_sequences", "did you mean stop?"),
        ("xyz", "xyz: no such parameter; known are max_tokens, temperature, top_k"),
    ],
)
def test_an_unknown_keyword_is_told_the_right_one(name: str, words: str, demo: LanguageModel) -> None:
    wrong: Any = {name: 1}
    for use in (demo.generate, demo.stream):
        with pytest.raises(ParameterError) as raised:
            use(PROMPT, **wrong)
        assert words in str(raised.value)


def test_loading_tells_too() -> None:
    wrong: Any = {"n_ctx": 128}
    with pytest.raises(ParameterError, match="n_ctx: no such parameter; did you mean max_context"):
        bitnet_numba.load("demo", **wrong)


def test_what_contradicts_is_refused(demo: LanguageModel) -> None:
    params = SamplingParams(max_tokens=2)
    with pytest.raises(ParameterError, match="seed: given beside params"):
        demo.generate(PROMPT, params, seed=1)
    wrong: Any = {"max_tokens": 2}
    with pytest.raises(ParameterError, match="params: expected SamplingParams, got dict"):
        demo.generate(PROMPT, wrong)
    with pytest.raises(ParameterError, match="params: 1 for 2 prompts"):
        demo.generate_batch([PROMPT, PROMPT], [params])
    texts: Any = [PROMPT, PROMPT]
    with pytest.raises(ParameterError, match="the prompt is a list of texts: generate_batch takes several"):
        demo.generate(texts)


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
def test_the_last_logits_are_those_of_all(chunk_size: int | None, demo: LanguageModel) -> None:
    ids = demo.tokenize("Once upon a time there was a dog")
    every, last = demo.logits(ids), demo.logits(ids, chunk_size, last=True)
    assert last.shape == every.shape[1:]
    np.testing.assert_array_equal(last, every[-1])


def test_models_and_results_say_what_they_are(demo: LanguageModel) -> None:
    assert repr(demo).startswith(f"<LanguageModel {demo.config.name!r}: bitnet-b1.58, 6 layers, {demo.isa}, ")
    result = demo.generate(PROMPT, max_tokens=4)
    assert repr(result).startswith(f"<GenerationResult {result.text!r}: 4 tokens, ")
    assert repr(result).endswith("ended by length>")


def test_every_error_is_imported_from_the_package() -> None:
    from bitnet_numba import errors

    named = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert all(getattr(bitnet_numba, error.__name__) is error for error in named)
    assert {error.__name__ for error in named} <= set(bitnet_numba.__all__)
