"""Replay: a true receipt is confirmed everywhere, and whatever is false in one is found at its place."""

import copy
import functools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitnet_numba
from bitnet_numba import LanguageModel
from bitnet_numba.demo import demo_model_path
from bitnet_numba.errors import ParameterError
from bitnet_numba.evidence.consistency import token_digest
from bitnet_numba.evidence.documents import dump
from bitnet_numba.evidence.facts import ModelIdentity, identify
from bitnet_numba.evidence.receipt import make_receipt
from bitnet_numba.evidence.replay import Replay, replay
from bitnet_numba.validate.model_files import read_model_files
from tests.evidence.making import reasons, receipt_of
from tests.subprocesses import ISAS, for_each_isa, run_python

SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.8, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "seed": 2**64 - 1},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": {7: 2.5}},
    {"stop": ["ball"], "max_tokens": 90},
    {"ignore_eos": True, "max_tokens": 220, "lookup": 5},
    {"max_tokens": 300},
]


@pytest.mark.parametrize("way", [{}, {"decode": True}, {"steps": 1}, {"steps": 99}], ids=str)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_true_receipt_is_confirmed(
    model: LanguageModel, identity: ModelIdentity, sampling: dict[str, Any], way: dict[str, Any]
) -> None:
    receipt = receipt_of(model, identity, **sampling)
    assert reasons(receipt) == ""
    outcome = replay(receipt, model, identity, **way)
    assert outcome.differences == ()
    n_sampled = len(receipt["token_ids"]) + (receipt["stop_token_id"] is not None)
    assert outcome.positions == (n_sampled if way != {"steps": 1} else min(outcome.positions, 16))


def test_progress_reaches_the_end(seeded: dict[str, Any], model: LanguageModel, identity: ModelIdentity) -> None:
    seen: list[tuple[int, int]] = []
    replay(seeded, model, identity, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (40, 40)


# ---- anywhere --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{"threads": 1}, {"head": "full"}, {"cached_prefixes": 0}], ids=str)
def test_other_threads_and_another_head_confirm_it(seeded: dict[str, Any], options: dict[str, Any]) -> None:
    with bitnet_numba.load("demo", **options) as other:
        assert replay(seeded, other, identify(other)).confirmed


def test_it_is_confirmed_beside_other_sequences(
    seeded: dict[str, Any], model: LanguageModel, identity: ModelIdentity
) -> None:
    others = threading.Thread(target=lambda: model.generate_batch(["One", "Two", "Three"], max_tokens=150))
    others.start()
    outcomes = [replay(seeded, model, identity) for _ in range(3)]
    others.join()
    assert all(outcome.confirmed for outcome in outcomes)


def test_made_in_a_batch_it_is_confirmed_alone(model: LanguageModel, identity: ModelIdentity) -> None:
    alone = receipt_of(model, identity, temperature=0.9, seed=11)
    others = threading.Thread(target=lambda: model.generate_batch(["One", "Two", "Three"], max_tokens=150))
    others.start()
    together = receipt_of(model, identity, temperature=0.9, seed=11)
    others.join()
    assert together["hidden_root"] == alone["hidden_root"]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What ``receipt replay`` says on every instruction set, in a process of its own."""
    file = tmp_path_factory.mktemp("receipt") / "receipt.json"
    run_python("-m", "bitnet_numba", "run", "Once upon a time", "--receipt", str(file), "-n", "40")
    return for_each_isa(functools.partial(_replay_elsewhere, file))


def _replay_elsewhere(file: Path, isa: str) -> str:
    return run_python("-m", "bitnet_numba", "receipt", "replay", str(file), BITNET_ISA=isa).stdout


@pytest.mark.slow
@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_confirms_it(isa: str, verdicts: dict[str, str]) -> None:
    assert verdicts[isa].startswith("CONFIRMED")


# ---- what is false ---------------------------------------------------------------------------------------------------
def only(outcome: Replay) -> tuple[str, int | None]:
    [difference] = outcome.differences
    return difference.what, difference.position


@pytest.mark.parametrize("way", [{}, {"decode": True}, {"steps": 99}], ids=str)
@pytest.mark.parametrize("position", [0, 1, 15, 16, 31, 39])
def test_a_changed_token_is_found_at_its_position(
    seeded: dict[str, Any], model: LanguageModel, identity: ModelIdentity, position: int, way: dict[str, Any]
) -> None:
    seeded["token_ids"][position] ^= 1
    assert only(replay(seeded, model, identity, **way)) == ("token", position)


@pytest.mark.parametrize("way", [{}, {"decode": True}, {"steps": 99}], ids=str)
@pytest.mark.parametrize("leaf", [0, 1, 2])
def test_a_changed_leaf_is_found(
    seeded: dict[str, Any], model: LanguageModel, identity: ModelIdentity, leaf: int, way: dict[str, Any]
) -> None:
    seeded["hidden_leaves"][leaf] = "0" * 64
    assert only(replay(seeded, model, identity, **way)) == ("hidden state", 16 * leaf)


def test_a_changed_prompt_is_found_in_the_first_leaf(
    receipt: dict[str, Any], model: LanguageModel, identity: ModelIdentity
) -> None:
    receipt["prompt_token_ids"][1] += 1
    receipt["prompt_sha256"] = token_digest(receipt["prompt_token_ids"])
    assert reasons(receipt) == ""
    what, position = only(replay(receipt, model, identity))
    assert (what, position) in {("token", 0), ("hidden state", 0)}


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 8), ("temperature", 1.4), ("top_p", 0.5), ("repetition_penalty", 1.5)]
)
def test_changed_sampling_is_found(
    seeded: dict[str, Any], model: LanguageModel, identity: ModelIdentity, name: str, value: float
) -> None:
    seeded["sampling"][name] = value
    assert reasons(seeded) == ""
    assert only(replay(seeded, model, identity))[0] == "token"


def test_an_answer_that_was_cut_or_goes_on_is_found(model: LanguageModel, identity: ModelIdentity) -> None:
    receipt = receipt_of(model, identity, max_tokens=300)
    assert receipt["finish_reason"] == "stop_token"
    cut = copy.deepcopy(receipt)
    cut["token_ids"], cut["stop_token_id"] = cut["token_ids"][:20], None
    assert only(replay(cut, model, identity)) in {("end", 20), ("hidden state", 16)}
    other_end = receipt | {"stop_token_id": None, "finish_reason": "length"}
    assert only(replay(other_end, model, identity))[0] == "end"


def test_another_text_is_found(receipt: dict[str, Any], model: LanguageModel, identity: ModelIdentity) -> None:
    receipt["text_sha256"] = "0" * 64
    assert only(replay(receipt, model, identity)) == ("text", None)


def test_one_changed_weight_is_found(receipt: dict[str, Any], tmp_path: Path) -> None:
    """A sign of one of five million weights, in the last layer."""
    files = read_model_files(demo_model_path())
    tensor = next(t for t in reversed(files.tensors.values()) if t.name.endswith("ffn_down.weight"))
    data = np.fromfile(demo_model_path(), np.uint8)
    packed = data[tensor.offset : tensor.offset + tensor.n_bytes]
    at = int(np.flatnonzero((packed >> 6) != 1)[0])  # a weight of -1 or 1; the code of 0 is 1
    packed[at] ^= 0b10 << 6
    changed = tmp_path / "changed.gguf"
    data.tofile(changed)
    with bitnet_numba.load(changed) as other:
        found = replay(receipt, other, identify(other)).differences
    assert [(difference.what, difference.position) for difference in found] == [
        ("model", None),
        ("hidden state", 0),
    ]
    assert found[0].message.startswith("sha256 is ")


def test_an_engine_that_returns_constants_is_found(
    receipt: dict[str, Any], model: LanguageModel, identity: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, forward = model.engine.backend, model.engine.backend.forward

    def constant(chunks: Any) -> Any:
        return [[row._replace(hidden=np.zeros_like(row.hidden)) for row in rows] for rows in forward(chunks)]

    with monkeypatch.context() as patch:
        patch.setattr(backend, "forward", constant)
        false = receipt_of(model, identity)
        assert only(replay(receipt, model, identity)) == ("hidden state", 0)
    assert only(replay(false, model, identity)) == ("hidden state", 0)


def test_an_engine_that_skips_the_kernels_shows_it(
    model: LanguageModel, identity: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: Any = model.engine.backend
    monkeypatch.setattr(backend, "_shape", backend._shape._replace(n_layers=0))  # the one way to run no layer
    with bitnet_numba.load("demo", cached_prefixes=0):
        skipped = receipt_of(model, identity, prompt="No layer runs for this")
    assert set(skipped["kernels"]).isdisjoint({"attention_forward", "rope_forward", "ffn_relu2_forward"})
    found = reasons(skipped)
    assert "no quantized CPU kernel ran" in found
    assert "kernel_calls.attention_forward: is None" in found


def test_kernels_are_those_of_the_head_that_ran(identity: ModelIdentity) -> None:
    with bitnet_numba.load("demo", head="full") as full:
        kernels = receipt_of(full, identity)["kernels"]
    assert "head_rescore" not in kernels
    assert any(kernel.endswith("_head_gemv") for kernel in kernels)


def test_each_answer_of_a_batch_has_its_receipt(model: LanguageModel, identity: ModelIdentity) -> None:
    results = model.generate_batch(["Once upon a time", "The dog"], record=True, max_tokens=20)
    for result in results:
        receipt = json.loads(dump(make_receipt(model, identity, result)))
        assert reasons(receipt) == ""
        assert replay(receipt, model, identity).confirmed


def test_a_sample_is_not_generated_anew(receipt: dict[str, Any], model: LanguageModel, identity: ModelIdentity) -> None:
    with pytest.raises(ParameterError, match="drop decode or steps"):
        replay(receipt, model, identity, decode=True, steps=1)
