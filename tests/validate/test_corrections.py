"""Correction policies: bound to a fingerprint, applied only with permission, and recorded."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bitnet_numba
from bitnet_numba.errors import BitNetError, CorrectionRefusedError, FormatError
from bitnet_numba.files import sha256_file
from bitnet_numba.model.corrections import CorrectedSource, NormRescale, ScaleOverride
from bitnet_numba.model.open import open_source
from bitnet_numba.model.roles import LINEAR_ROLES
from bitnet_numba.validate.policies import check_policy, read_correction_policy
from bitnet_numba.validate.suggest import suggest_policy
from tests.tiny import toy_model
from tests.validate.sabotages import SABOTAGES
from tests.validate.spoilt import scale_norms, set_scale, spoilt

VARIABLES = ("BITNET_CORRECTION_POLICY", "BITNET_ALLOW_RUNTIME_CORRECTIONS", "BITNET_FIX_LN_SCALE")
RESCALE = {"type": "LN_GAMMA_RESCALE_RMS", "target_rms": 1.0, "clamp": [0.01, 100]}
OVERRIDE = {"type": "I2S_DEQUANT_OVERRIDE", "tensors": ["attn_q.weight"], "inv": True, "k": 1.0}
PROMPT = "The capital of France is"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "BITNET_STRICT_MODE", "BITNET_GGUF", "CI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def inverted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the embedded model with the inverse of every scale."""
    return spoilt(tmp_path_factory.mktemp("models") / "inverted.gguf", SABOTAGES["scales inverted"].spoil)


def policy_file(path: Path, model: Path, *corrections: dict[str, Any]) -> Path:
    entry = {"fingerprint": f"sha256-{sha256_file(model)}", "notes": "bad", "corrections": list(corrections)}
    path.write_text(json.dumps({"version": 1, "models": [entry]}), encoding="utf-8")
    return path


def allow(monkeypatch: pytest.MonkeyPatch, policy: Path | None = None) -> None:
    monkeypatch.setenv("BITNET_ALLOW_RUNTIME_CORRECTIONS", "1")
    if policy is not None:
        monkeypatch.setenv("BITNET_CORRECTION_POLICY", str(policy))


# ---- what is applied -------------------------------------------------------------------------------------------------
def test_inverted_scales_are_corrected(inverted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = [f"{role}.weight" for role in LINEAR_ROLES]
    policy = policy_file(tmp_path / "policy.json", inverted, OVERRIDE | {"tensors": roles})
    allow(monkeypatch, policy)
    with bitnet_numba.load(inverted) as model, bitnet_numba.load("demo") as healthy:
        fingerprint = f"sha256-{hashlib.sha256(policy.read_bytes()).hexdigest()}"
        assert len(model.corrections) == 42
        assert f"42 corrections were made to the weights, by {fingerprint}" in model.notes
        first = model.corrections[0]
        assert first.keys() == {
            "layer", "correction_type", "rms_before", "rms_after", "factor", "policy_fingerprint", "metadata"
        }  # fmt: skip
        assert (first["layer"], first["correction_type"]) == ("blk.0.attn_q.weight", "I2S_DEQUANT_OVERRIDE")
        assert first["policy_fingerprint"] == fingerprint
        assert first["rms_after"] == pytest.approx(0.0955413, rel=1e-5)
        assert first["rms_before"] * first["factor"] == pytest.approx(first["rms_after"])
        assert first["metadata"].keys() == {"inv", "k", "scale_before", "scale_after"}
        assert [each["layer"] for each in model.corrections[6:8]] == ["blk.0.ffn_down.weight", "blk.1.attn_q.weight"]
        assert healthy.corrections == []
        assert np.allclose(model.logits([1, 2, 3]), healthy.logits([1, 2, 3]), atol=1e-4)
    with bitnet_numba.load("demo") as other:
        assert any("corrects nothing: it does not list sha256-" in note for note in other.notes)


def test_norms_are_rescaled_to_an_rms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = spoilt(tmp_path / "small.gguf", lambda model: scale_norms(model, 0.02))
    allow(monkeypatch, policy_file(tmp_path / "policy.json", small, RESCALE))
    with bitnet_numba.load(small) as model:
        assert len(model.corrections) == 25
        assert all(record["rms_after"] == pytest.approx(1.0, rel=1e-6) for record in model.corrections)
        assert model.corrections[-1]["layer"] == "output_norm.weight"
        assert model.generate(PROMPT, max_tokens=4).text.startswith(" Paris")
        assert model.info()["model"]["corrections"] == model.corrections


def test_the_fix_variable_is_a_policy_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = spoilt(tmp_path / "small.gguf", lambda model: scale_norms(model, 1e-4))
    monkeypatch.setenv("BITNET_FIX_LN_SCALE", "yes")
    allow(monkeypatch)
    with bitnet_numba.load(small) as model:
        record = model.corrections[0]
        assert (record["factor"], record["policy_fingerprint"]) == (100.0, "BITNET_FIX_LN_SCALE")  # as far as it may
        assert record["rms_after"] == pytest.approx(100 * record["rms_before"])


@pytest.mark.parametrize("linear_class", ["autobitlinear", None])
def test_hugging_face_names_serve_too(linear_class: str | None, tmp_path: Path) -> None:
    path = toy_model(has_masters=True).checkpoint(linear_class).write(tmp_path / "toy")
    source = CorrectedSource(open_source(path), [ScaleOverride(("mlp.up_proj.weight",), inv=False, k=2.0)], "mine")
    plain = open_source(path)
    assert source.linear("ffn_up", 1).scale == 2 * plain.linear("ffn_up", 1).scale
    assert source.linear("ffn_gate", 1).scale == plain.linear("ffn_gate", 1).scale
    [record] = source.corrections
    weights = plain.linear("ffn_up", 1)
    assert record.layer == "blk.1.ffn_up.weight"
    assert record.rms_before == pytest.approx(float(weights.scale) * np.sqrt(np.mean(weights.unpacked() != 0)))


def test_an_rms_within_tolerance_is_left_alone() -> None:
    rescale = NormRescale(1.0, (0.5, 2.0))
    assert rescale.factor(1.0009) is None
    assert rescale.factor(0.9) == pytest.approx(1 / 0.9)
    assert rescale.factor(0.0) == 2.0
    assert rescale.factor(50.0) == 0.5
    source = CorrectedSource(open_source("demo"), [NormRescale(0.70087, (0.5, 2.0))], "x")
    assert np.array_equal(source.norm("attn_norm", 0), open_source("demo").norm("attn_norm", 0))
    assert source.corrections == ()


@pytest.mark.parametrize(
    ("stored", "inv", "k", "used"),
    [(0.5, False, 1.0, 0.5), (4.0, True, 2.0, 0.5), (1e-9, True, 1, 1e3), (1, 0, 0, 1e-3)],
)
def test_scales_are_clamped(stored: float, inv: bool, k: float, used: float) -> None:
    assert ScaleOverride(("x",), inv, k).scale(stored) == used


# ---- what is not -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("variable", ["BITNET_CORRECTION_POLICY", "BITNET_FIX_LN_SCALE"])
def test_one_variable_alone_corrects_nothing(
    variable: str, inverted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_file(tmp_path / "policy.json", inverted, OVERRIDE)
    monkeypatch.setenv(variable, str(policy) if variable == "BITNET_CORRECTION_POLICY" else "1")
    with bitnet_numba.load(inverted) as model:
        assert model.corrections == []
        assert "nothing is corrected: BITNET_ALLOW_RUNTIME_CORRECTIONS is not set" in model.notes


def test_permission_alone_corrects_nothing(inverted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch)
    with bitnet_numba.load(inverted) as model:
        assert model.corrections == []


def test_strict_mode_refuses(inverted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, policy_file(tmp_path / "policy.json", inverted, OVERRIDE))
    monkeypatch.setenv("BITNET_STRICT_MODE", "1")
    with pytest.raises(CorrectionRefusedError, match="no model is corrected in strict mode: unset BITNET_CORRECTION"):
        bitnet_numba.load(inverted)


# ---- policies --------------------------------------------------------------------------------------------------------
HEX = "0123456789abcdef" * 4
GOOD = f"""\
version: 1
models:
  - fingerprint: sha256-{HEX}
    notes: exported with quantized norms
    corrections:
      - {{type: LN_GAMMA_RESCALE_RMS, target_rms: 1.0, clamp: [0.5, 2.0]}}
      - {{type: I2S_DEQUANT_OVERRIDE, tensors: [q_proj.weight, k_proj.weight], inv: true, k: 1.5}}
  - fingerprint: sha256-{HEX[::-1]}
    corrections: [{{type: I2S_DEQUANT_OVERRIDE, tensors: [x]}}]
"""


def test_a_policy_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.yml"
    path.write_text(GOOD, encoding="utf-8")
    policy = read_correction_policy(path)
    assert policy.models[f"sha256-{HEX}"] == (
        NormRescale(1.0, (0.5, 2.0)),
        ScaleOverride(("q_proj.weight", "k_proj.weight"), inv=True, k=1.5),
    )
    assert policy.models[f"sha256-{HEX[::-1]}"] == (ScaleOverride(("x",), inv=False, k=1.0),)
    assert check_policy(path) == {
        "kind": "corrections", "fingerprint": policy.fingerprint, "models": 2, "corrections": 3
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1", "version: 3", "version: version 3 is not read, expected 1"),
        (HEX[::-1], HEX, "models[1]: fingerprint: the same model occurs twice"),
        (HEX + "\n", HEX[:-1] + "\n", "models[0]: fingerprint: expected sha256- and 64 lowercase hexadecimal digits"),
        (HEX + "\n", HEX.upper() + "\n", "64 lowercase hexadecimal digits"),
        ("sha256-" + HEX, HEX, "64 lowercase hexadecimal digits"),
        ("target_rms: 1.0", "target_rms: 0", "target_rms: 0 is not a finite number of at least 1e-09"),
        ("target_rms: 1.0", "target_rms: .inf", "target_rms: inf is not a finite number"),
        ("target_rms: 1.0, ", "", "corrections[0]: key 'target_rms' is missing"),
        ("clamp: [0.5, 2.0]", "clamp: [2.0]", "expected a smallest and a largest factor, got 1 numbers"),
        ("clamp: [0.5, 2.0]", "clamp: [3, 2]", "the smallest factor 3 is above the largest 2"),
        ("[q_proj.weight, k_proj.weight]", "[]", "tensors: expected a list of at least one"),
        ("[q_proj.weight, k_proj.weight]", "['', x]", "tensors[0]: expected a text, got ''"),
        ("inv: true", "inv: 1", "inv: expected true or false, got 1"),
        ("k: 1.5", "k: -1", "k: -1 is not a finite number of at least 1e-09"),
        ("k: 1.5", "k: true", "k: expected a number, got True"),
        ("LN_GAMMA_RESCALE_RMS", "LN_GAMMA", "type 'LN_GAMMA' is not known, expected LN_GAMMA_RESCALE_RMS"),
        ("k: 1.5", "q: 1.5", "unknown key 'q'"),
        ("models:", "rule: 1\nmodels:", "unknown key 'rule'"),
    ],
)
def test_a_wrong_policy_is_refused_with_its_place(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in GOOD
    path = tmp_path / "policy.yml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(FormatError) as caught:
        check_policy(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_policy_that_cannot_be_read_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, tmp_path / "absent.yml")
    with pytest.raises(BitNetError, match=r"absent\.yml: no such file"):
        bitnet_numba.load("demo")


# ---- suggestions -----------------------------------------------------------------------------------------------------
def test_a_suggestion_for_inverted_scales_corrects_them(
    inverted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.yml"
    suggested = suggest_policy(inverted)
    assert suggested is not None
    policy.write_text(suggested, encoding="utf-8")
    [correction] = read_correction_policy(policy).models[f"sha256-{sha256_file(inverted)}"]
    assert isinstance(correction, ScaleOverride)
    assert (len(correction.tensors), correction.inv) == (42, True)
    allow(monkeypatch, policy)
    with bitnet_numba.load(inverted) as model:
        assert len(model.corrections) == 42


def test_suggestions_for_norms_and_scales_out_of_bounds(tmp_path: Path) -> None:
    def spoil(model: Any) -> None:
        scale_norms(model, 0.02)
        set_scale(model, "blk.1.ffn_up.weight", lambda scale: scale / 1000)

    path = spoilt(tmp_path / "bad.gguf", spoil)
    policy = tmp_path / "policy.yml"
    policy.write_text(suggest_policy(path) or "", encoding="utf-8")
    rescale, override = read_correction_policy(policy).models[f"sha256-{sha256_file(path)}"]
    assert rescale == NormRescale(1.0, (0.01, 100.0))
    assert isinstance(override, ScaleOverride)
    assert override.tensors == ("blk.1.ffn_up.weight",)
    assert 0.0952 / 1000 * override.k == pytest.approx(0.02, rel=0.01)


def test_nothing_is_suggested_where_nothing_is_wrong() -> None:
    assert suggest_policy("demo") is None


def test_a_layer_s_order_is_that_of_the_model(tmp_path: Path) -> None:
    path = toy_model().gguf().write(tmp_path / "toy.gguf")
    source = CorrectedSource(open_source(path), [ScaleOverride(("weight",), inv=False, k=2.0)], "x")
    for layer in reversed(range(2)):
        for role in reversed(LINEAR_ROLES):
            source.linear(role, layer)
    expected = [f"blk.{layer}.{role}.weight" for layer in range(2) for role in LINEAR_ROLES]
    assert [record.layer for record in source.corrections] == expected
