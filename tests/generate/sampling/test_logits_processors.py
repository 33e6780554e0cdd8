"""Functions of the caller that change the logits: what they are given, what they may return, what they cost."""

from typing import Any

import numpy as np
import pytest

from bitnet_numba import LanguageModel
from bitnet_numba.errors import ParameterError
from tests.fakes import VOCAB_SIZE, FakeBackend, Floats, fake_model, random_logits

PROMPT = [97, 98]


def forbid(token_id: int) -> Any:
    def processor(ids: list[int], logits: Floats) -> Floats:
        logits[token_id] = -np.inf
        return logits

    return processor


def test_they_see_prompt_and_answer_and_their_logits_count() -> None:
    seen: list[list[int]] = []

    def count_up(ids: list[int], logits: Floats) -> Floats:
        assert logits.dtype == np.float32
        assert logits.shape == (VOCAB_SIZE,)
        seen.append(ids)
        logits[:] = 0
        logits[ids[-1] + 1] = 1
        return logits

    with fake_model(FakeBackend(random_logits)) as model:
        assert model.generate(PROMPT, max_tokens=3, logits_processors=[count_up]).token_ids == [99, 100, 101]
    assert seen == [PROMPT, [*PROMPT, 99], [*PROMPT, 99, 100]]


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.7, "top_p": 0.9, "seed": 1}]
)
def test_one_that_changes_nothing_changes_nothing(demo: LanguageModel, sampling: dict[str, Any]) -> None:
    plain = demo.generate("Once upon a time", max_tokens=12, **sampling)
    processed = demo.generate("Once upon a time", max_tokens=12, logits_processors=[lambda _, x: x], **sampling)
    assert processed.token_ids == plain.token_ids


def test_minus_infinity_forbids_a_token_and_several_work_in_turn(demo: LanguageModel) -> None:
    first = demo.generate("Once upon a time", max_tokens=1).token_ids[0]
    second = demo.generate("Once upon a time", max_tokens=1, logits_processors=[forbid(first)]).token_ids[0]
    both = demo.generate("Once upon a time", max_tokens=1, logits_processors=[forbid(first), forbid(second)])
    assert len({first, second, both.token_ids[0]}) == 3
    order = np.argsort(-demo.logits(demo.tokenize("Once upon a time"), last=True))
    assert [first, second, both.token_ids[0]] == order[:3].tolist()


def test_drafts_are_verified_with_them() -> None:
    def alternate(ids: list[int], logits: Floats) -> Floats:
        logits[:] = 0
        logits[97 + len(ids) % 2] = 1
        return logits

    with fake_model(FakeBackend(random_logits)) as model:
        prompt = [97, 98] * 4
        plain = model.generate(prompt, max_tokens=9, logits_processors=[alternate])
        drafted = model.generate(prompt, max_tokens=9, logits_processors=[alternate], lookup=4)
    assert drafted.token_ids == plain.token_ids
    assert drafted.accepted_tokens > 0


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "not NoneType"),
        (np.zeros(3, np.float32), r"not float32\[3\]"),
        (np.zeros(VOCAB_SIZE), "not float64"),
        (np.full(VOCAB_SIZE, -np.inf, np.float32), "finite maximum"),
        (np.full(VOCAB_SIZE, np.inf, np.float32), "finite maximum"),
        (np.full(VOCAB_SIZE, np.nan, np.float32), "without NaN"),
    ],
)
def test_what_is_no_logits_is_refused(returned: Any, message: str) -> None:
    def broken(ids: list[int], logits: Floats) -> Any:
        return returned

    with fake_model(FakeBackend(random_logits)) as model, pytest.raises(ParameterError, match=rf"broken .*{message}"):
        model.generate(PROMPT, max_tokens=1, logits_processors=[broken])


def test_their_own_errors_arrive() -> None:
    def failing(ids: list[int], logits: Floats) -> Floats:
        raise ZeroDivisionError

    with fake_model(FakeBackend(random_logits)) as model, pytest.raises(ZeroDivisionError):
        model.generate(PROMPT, logits_processors=[failing])


def test_they_cannot_be_recorded() -> None:
    with fake_model(FakeBackend(random_logits)) as model, pytest.raises(ParameterError, match="record"):
        model.generate(PROMPT, logits_processors=[forbid(1)], record=True)
