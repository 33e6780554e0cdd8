"""The embedded model's answers, byte for byte: any change of arithmetic, sampling, templates or tokens shows here.

``demo.jsonl`` has one answer a line. A change that is meant to alter answers writes it anew and says so in CHANGELOG.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bitnet_numba
from bitnet_numba import GenerationResult, LanguageModel

ANSWERS = [json.loads(line) for line in (Path(__file__).parent / "demo.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module", params=[1, 2], ids=["1 thread", "2 threads"])
def model(request: pytest.FixtureRequest) -> Iterator[LanguageModel]:
    with bitnet_numba.load("demo", threads=request.param) as model:
        yield model


def observed(result: GenerationResult, expected: dict[str, Any]) -> dict[str, Any]:
    """What a line of the file says of an answer."""
    found = result.to_dict()
    found["logprobs"] = [entry["logprob"] for entry in found["logprobs"] or ()]
    return {name: found[name] for name in expected if name not in ("prompt", "chat", "sampling")}


def sampling_of(answer: dict[str, Any]) -> dict[str, Any]:
    sampling = {**answer["sampling"], "max_tokens": 48}
    if "logit_bias" in sampling:
        sampling["logit_bias"] = {int(token_id): bias for token_id, bias in sampling["logit_bias"].items()}
    return sampling


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda a: f"{a.get('prompt', a.get('chat'))[:12]} {a['sampling']}")
def test_the_embedded_model_answers_as_before(model: LanguageModel, answer: dict[str, Any]) -> None:
    if "chat" in answer:
        result = model.chat([{"role": "user", "content": answer["chat"]}], **sampling_of(answer))
    else:
        result = model.generate(answer["prompt"], **sampling_of(answer))
    expected = {name: value for name, value in answer.items() if name not in ("prompt", "chat", "sampling")}
    assert observed(result, answer) == expected
    assert result.text.encode() == answer["text"].encode()


@pytest.mark.parametrize("sampling", [a["sampling"] for a in ANSWERS if a.get("prompt") == "Once upon a time"], ids=str)
def test_a_batch_answers_as_before(model: LanguageModel, sampling: dict[str, Any]) -> None:
    answers = [answer for answer in ANSWERS if answer["sampling"] == sampling and "prompt" in answer]
    results = model.generate_batch([answer["prompt"] for answer in answers], **sampling_of(answers[0]))
    assert [result.token_ids for result in results] == [answer["token_ids"] for answer in answers]
