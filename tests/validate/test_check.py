"""Stages of ``validate``: each exit code is reached by the damage it stands for."""

import json
import re
from pathlib import Path

import pytest

from bitnet_numba.demo import demo_model_path
from bitnet_numba.errors import CorrectionRefusedError
from bitnet_numba.validate.check import MEANINGS, Stage, validate_model
from tests.tiny import toy_model
from tests.validate.sabotages import SABOTAGES, shuffle
from tests.validate.spoilt import spoilt

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "validate-a-model.md"
TRUNCATED = "a truncated file"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CORRECTION_POLICY", "ALLOW_RUNTIME_CORRECTIONS", "FIX_LN_SCALE", "STRICT_MODE", "GGUF"):
        monkeypatch.delenv(f"BITNET_{name}", raising=False)


def test_the_embedded_model_passes_every_stage() -> None:
    validation = validate_model("demo")
    assert validation.exit_code == 0
    assert [validation.status(stage) for stage in Stage] == ["passed"] * 6
    assert validation.probe is not None
    assert validation.probe.text == " Paris. France is a country"
    assert len(validation.probe.token_ids) == 8


@pytest.mark.parametrize("name", SABOTAGES)
def test_sabotages_are_caught_where_the_table_says(name: str, tmp_path: Path) -> None:
    sabotage = SABOTAGES[name]
    validation = validate_model(spoilt(tmp_path / "spoilt.gguf", sabotage.spoil))
    assert validation.exit_code == sabotage.code, validation.findings


def test_another_seed_of_the_shuffle_is_caught_too(tmp_path: Path) -> None:
    """Layer 1 in another order of weights: it had forgotten all capitals but two, and wrote clean prose."""
    assert validate_model(spoilt(tmp_path / "spoilt.gguf", shuffle(1, seed=7))).exit_code == Stage.LANGUAGE


@pytest.mark.parametrize("n_bytes", [100, 130_000, -1000])
def test_a_truncated_file_is_caught_at_once(n_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(demo_model_path().read_bytes()[:n_bytes])
    validation = validate_model(path)
    assert validation.exit_code == Stage.INSPECTION
    assert [validation.status(stage) for stage in Stage] == ["failed", *["skipped"] * 5]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    validation = validate_model(tmp_path / "absent.gguf")
    assert validation.exit_code == Stage.INSPECTION
    assert "no such model" in validation.findings[Stage.INSPECTION][0]


def test_all_findings_are_told_and_the_first_decides(tmp_path: Path) -> None:
    validation = validate_model(spoilt(tmp_path / "spoilt.gguf", SABOTAGES["norms times 0.02"].spoil))
    assert validation.exit_code == Stage.NORMS
    assert len(validation.findings[Stage.NORMS]) == 6
    assert validation.findings[Stage.NORMS][0].startswith("blk.0.ffn_norm.weight: RMS 0.02039, bitnet-b1.58:i2_s")
    assert validation.status(Stage.LANGUAGE) == "failed"
    assert json.loads(json.dumps(validation.to_dict()))["exit_code"] == 11


def test_a_scale_read_the_wrong_way(tmp_path: Path) -> None:
    """The same key means two things in packed checkpoints; ``linear_class`` tells which."""
    checkpoint = toy_model().checkpoint("bitlinear")
    checkpoint.config["quantization_config"]["linear_class"] = "autobitlinear"
    validation = validate_model(checkpoint.write(tmp_path / "toy"))
    assert validation.exit_code == Stage.PROJECTIONS
    assert len(validation.findings[Stage.PROJECTIONS]) == 14


def test_random_weights_fail_by_their_text(tmp_path: Path) -> None:
    """Random weights: files, norms and graph are fine, the text is not."""
    toy = toy_model(hidden_size=256, n_heads=4, n_kv_heads=2, max_seq_len=256, vocab_size=301)
    validation = validate_model(toy.gguf().write(tmp_path / "toy.gguf"))
    assert validation.exit_code == Stage.LANGUAGE


def test_a_context_too_small_for_the_probe(tmp_path: Path) -> None:
    validation = validate_model(toy_model(max_seq_len=4).gguf().write(tmp_path / "toy.gguf"))
    assert validation.exit_code == Stage.PROBE
    assert validation.status(Stage.LANGUAGE) == "skipped"


def test_a_tokenizer_of_the_user_s_own(tmp_path: Path) -> None:
    tokenizer = toy_model().checkpoint().write(tmp_path / "toy") / "tokenizer.json"
    validation = validate_model("demo", tokenizer=tokenizer)
    assert validation.exit_code == Stage.LANGUAGE
    assert validate_model("demo", tokenizer=tmp_path / "absent.json").exit_code == Stage.PROJECTIONS


@pytest.mark.parametrize("variable", ["CORRECTION_POLICY", "ALLOW_RUNTIME_CORRECTIONS", "FIX_LN_SCALE"])
@pytest.mark.parametrize("where", ["CI", "BITNET_STRICT_MODE"])
def test_corrections_are_refused_where_nobody_looks(variable: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv(f"BITNET_{variable}", "1")
    monkeypatch.setenv(where, "true")
    with pytest.raises(CorrectionRefusedError, match=f"BITNET_{variable} is set: no model is corrected"):
        validate_model("demo")


def test_the_page_has_the_table_of_sabotages() -> None:
    rows = re.findall(r"^\| ([^|]+) \| (\d+|nothing) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {name: 0 if code == "nothing" else int(code) for name, code in rows}
    known = {name: sabotage.code for name, sabotage in SABOTAGES.items()}
    assert documented == known | {TRUNCATED: int(Stage.INSPECTION)}


def test_every_code_has_a_sabotage() -> None:
    codes = {sabotage.code for sabotage in SABOTAGES.values()} | {int(Stage.INSPECTION)}
    assert codes == {0, *map(int, MEANINGS)}
