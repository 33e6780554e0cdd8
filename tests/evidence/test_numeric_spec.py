"""The embedded model's receipts against a verifier that was written from the numeric specification alone."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

import bitnet_numba
from bitnet_numba import LanguageModel
from bitnet_numba.demo import demo_model_path
from bitnet_numba.evidence.facts import identify
from bitnet_numba.evidence.receipt import make_receipt
from tests.docs.markdown import ROOT
from tests.evidence.clean_room import verify


@pytest.fixture(scope="module")
def model() -> Iterator[LanguageModel]:
    with bitnet_numba.load("demo") as model:
        yield model


def receipt_of(model: LanguageModel, prompt: Any, **sampling: Any) -> dict[str, Any]:
    return make_receipt(model, identify(model), model.generate(prompt, record=True, **sampling))


def test_it_computes_the_bits_of_a_receipt_and_finds_what_is_wrong(model: LanguageModel) -> None:
    receipt = receipt_of(model, "The dog", max_tokens=3)
    assert verify(receipt, demo_model_path()) == []
    wrong = copy.deepcopy(receipt)
    wrong["token_ids"][2] += 1
    assert verify(wrong, demo_model_path()) == ["token 2"]
    wrong = copy.deepcopy(receipt)
    wrong["prompt_token_ids"][-1] += 1
    assert "leaf 0" in verify(wrong, demo_model_path())


@pytest.mark.slow
def test_the_committed_receipt() -> None:
    path = ROOT / "docs" / "baselines" / "bitnet-demo-5.8m-i2_s-gguf.receipt.json"
    assert verify(json.loads(path.read_text("utf-8")), demo_model_path()) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2**63])
def test_drawn_tokens(model: LanguageModel, seed: int) -> None:
    receipt = receipt_of(model, "Once upon a time", max_tokens=20, temperature=0.9, seed=seed)
    assert verify(receipt, demo_model_path()) == []


@pytest.mark.slow
def test_positions_in_two_blocks(model: LanguageModel) -> None:
    prompt = (model.tokenize("Once upon a time there was a big dog. ") * 40)[:258]
    assert verify(receipt_of(model, prompt, max_tokens=4), demo_model_path()) == []
