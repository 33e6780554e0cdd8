"""Baselines: what is recorded, that every change is named, and strangers' files."""

import copy
import shlex
from pathlib import Path
from typing import Any

import pytest

import bitnet_numba
from bitnet_numba import LanguageModel
from bitnet_numba.errors import BitNetError, EvidenceError, ParameterError
from bitnet_numba.evidence.baselines.export_record import read_export_record
from bitnet_numba.evidence.baselines.page import render_page
from bitnet_numba.evidence.baselines.record import (
    Baseline,
    compare_baseline,
    default_name,
    deprecated,
    read_baseline,
    record_baseline,
    updated,
)
from bitnet_numba.evidence.documents import dump, write_document
from bitnet_numba.evidence.facts import call_outs, identify
from bitnet_numba.validate.inspect import inspect_model
from tests.docs.markdown import ROOT
from tests.tiny import toy_model

COMMITTED = ROOT / "docs" / "baselines" / "bitnet-demo-5.8m-i2_s-gguf.json"


def observed(model: LanguageModel, **arguments: Any) -> Baseline:
    inspection = inspect_model("demo", ln_stats=True)
    return record_baseline(model, identify(model), inspection, name="demo", tokens_per_second=10.0, **arguments)


@pytest.fixture(scope="module")
def model() -> Any:
    with bitnet_numba.load("demo") as model:
        yield model


@pytest.fixture(scope="module")
def baseline(model: LanguageModel) -> Baseline:
    return observed(model)


def test_the_embedded_model_is_as_committed(baseline: Baseline) -> None:
    recorded = read_baseline(COMMITTED)
    assert [str(finding) for finding in compare_baseline(recorded, baseline)] == []
    assert COMMITTED.with_suffix(".md").read_text("utf-8") == render_page(recorded, COMMITTED.name)
    assert default_name(baseline) == f"{COMMITTED.stem}.md"
    assert len(recorded["layernorm"]["rms"]) == recorded["layernorm"]["healthy"] == 25
    assert recorded["export_configuration"]["is_test_model"]


def change(baseline: Baseline, path: str, value: Any) -> Baseline:
    changed: Any = copy.deepcopy(baseline)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    inner = changed
    for part in parents:
        inner = inner[part]
    assert inner[last] != value
    inner[last] = value
    result: Baseline = changed
    return result


CHANGES = {
    "fingerprints/sha256": "0" * 64,
    "fingerprints/size_bytes": 1,
    "fingerprints/tokenizer_sha256": "1" * 64,
    "fingerprints/vocab_size": 7,
    "model/variant": "tq2_0",
    "model/layers": 5,
    "layernorm/rms/blk.0.attn_norm.weight": 0.7008,
    "layernorm/healthy": 24,
    "layernorm/ruleset": "generic",
    "projection/rms/blk.5.ffn_down.weight": 0.5,
    "probes/0/text": " Rome",
    "probes/2/token_ids/0": 5,
    "probes/1/prompt": "Twice upon a time",
}


@pytest.mark.parametrize(("path", "value"), CHANGES.items(), ids=CHANGES)
def test_a_change_is_named_by_its_field(baseline: Baseline, path: str, value: Any) -> None:
    [finding] = compare_baseline(change(baseline, path, value), baseline)
    named = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split("/")).removeprefix(".")
    assert finding.field == named
    assert finding.problem.startswith("is ")


def test_a_missing_norm_and_one_too_many_are_named(baseline: Baseline) -> None:
    fewer = copy.deepcopy(baseline)
    del fewer["layernorm"]["rms"]["blk.3.attn_norm.weight"]
    for pair in ((fewer, baseline), (baseline, fewer)):
        [finding] = compare_baseline(*pair)
        assert finding.field == "layernorm.rms.blk.3.attn_norm.weight"


def test_roundings_of_sums_do_not_count(baseline: Baseline) -> None:
    rms = baseline["layernorm"]["rms"]["blk.0.attn_norm.weight"]
    near = change(baseline, "layernorm/rms/blk.0.attn_norm.weight", rms * (1 + 1e-12))
    assert compare_baseline(near, baseline) == []


def test_updates_and_deprecations_keep_the_history(model: LanguageModel, baseline: Baseline) -> None:
    new = updated(baseline, observed(model), "another day")
    old = deprecated(new, "replaced")
    changes = [entry["change"] for entry in old["changelog"]]
    assert changes == ["created", "updated: another day", "deprecated: replaced"]
    assert render_page(old, "a.json").startswith("# [DEPRECATED] Baseline of")


def test_a_deprecated_one_is_not_brought_back(baseline: Baseline) -> None:
    with pytest.raises(ParameterError, match=r"deprecated .*replaced"):
        updated(deprecated(baseline, "replaced"), baseline, "back")


def test_markup_of_a_model_s_own_takes_no_effect(baseline: Baseline) -> None:
    page = render_page(change(baseline, "model/name", "a|b <script>\n# [x](y)"), "a.json")
    assert "a\\|b \\<script\\> \\# \\[x\\](y)" in page
    tensor = copy.deepcopy(baseline)
    tensor["layernorm"]["rms"] = {"a|<b>_norm.weight": 1.0}
    assert "| a\\|\\<b\\>\\_norm.weight | 1 |" in render_page(tensor, "a.json")
    assert "updated: \\<b\\>" in render_page(updated(baseline, baseline, "<b>"), "a.json")


def test_a_model_s_name_cannot_add_commands(baseline: Baseline) -> None:
    page = render_page(change(baseline, "notes/model_argument", "a b;`id`$(id)'"), "my file.json")
    block = page.partition("```sh\n")[2].partition("\n```")[0]
    for line in block.splitlines():
        words = shlex.split(line)
        assert words[0] == "bitnet-numba"
        assert "a b;`id`$(id)'" in words
    assert "[my file.json](my%20file.json)" in page


def test_models_that_say_little_are_called_out(baseline: Baseline) -> None:
    assert "A **test model**" in render_page(baseline, "a.json")
    large = change(baseline, "export_configuration/is_test_model", False)
    assert "**" not in render_page(large, "a.json")
    assert "A **synthetic model**" in render_page(change(large, "export_configuration/is_synthetic", True), "a.json")


@pytest.mark.parametrize(
    ("name", "is_synthetic"),
    [("random 2B-4T", True), ("Synthetic-0.7B", True), ("bitnet-demo-5.8m", False), ("Randomia 2B", False)],
)
def test_a_synthetic_model_is_known_by_its_name(name: str, is_synthetic: bool, tmp_path: Path) -> None:
    contents = toy_model().gguf()
    contents.metadata["general.name"] = name
    with bitnet_numba.load(contents.write(tmp_path / "a.gguf")) as model:
        assert call_outs(model, identify(model)) == {"is_test_model": True, "is_synthetic": is_synthetic}


@pytest.mark.parametrize(
    ("name", "file"), [("x", "x-i2_s-gguf.md"), ("../..", "i2_s-gguf.md"), ("a/b", "a-b-i2_s-gguf.md")]
)
def test_the_page_is_named_for_the_model(name: str, file: str, baseline: Baseline) -> None:
    assert default_name(change(baseline, "model/name", name)) == file


# ---- the record of an export -----------------------------------------------------------------------------------------
SHA256 = "a" * 64


def test_what_an_export_wrote_is_quoted(tmp_path: Path) -> None:
    assert read_export_record(tmp_path / "a.gguf", SHA256) == {}
    record = {"fingerprint": f"sha256-{SHA256}", "source": "org/x", "source_revision": None, "tensors": 3}
    write_document(tmp_path / "a.meta.json", record)
    assert read_export_record(tmp_path / "a.gguf", SHA256) == {"source": "org/x"}
    assert read_export_record(tmp_path / "a", SHA256) == {}  # a folder of that name


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"source": "org/x"}, "its fingerprint is None"),
        ({"fingerprint": f"sha256-{'b' * 64}"}, "is not the record of a.gguf"),
        ({"fingerprint": f"sha256-{SHA256}", "converter": ["x"]}, r"converter is \['x'\], expected a text"),
    ],
)
def test_a_record_of_another_file_is_refused(record: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_document(tmp_path / "a.meta.json", record)
    with pytest.raises(EvidenceError, match=message):
        read_export_record(tmp_path / "a.gguf", SHA256)


# ---- strangers' files ------------------------------------------------------------------------------------------------
def test_it_is_read_as_it_was_written(baseline: Baseline, tmp_path: Path) -> None:
    write_document(tmp_path / "a.json", baseline)
    assert read_baseline(tmp_path / "a.json") == baseline


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema_version", "2.0.0", "schema_version"),
        ("status", "fine", "status"),
        ("fingerprints/sha256", "x", "fingerprints.sha256"),
        ("fingerprints/size_bytes", 1.5, "fingerprints.size_bytes"),
        ("layernorm/rms_min", 1, "layernorm.rms_min"),
        ("layernorm/rms_min", -1.0, "layernorm.rms_min"),
        ("probes", [], "probes"),
        ("changelog", [], "changelog"),
        ("notes/date", "yesterday", "notes.date"),
        ("model/name", "x" * 5000, "model.name"),
        ("hardware/lower", "x", "hardware"),
        ("hardware/OS\n", "x", "hardware"),
        ("fingerprints/sha256", "0" * 64 + "\n", "fingerprints.sha256"),
        ("notes/date", "2026-12-01\n", "notes.date"),
        ("notes/model_argument", "a\n```", "notes.model_argument"),
        ("changelog/0/change", "x\n## Model", "changelog"),
        ("layernorm/rms/ ", "much", "layernorm.rms"),
        ("projection/rms/", 1.0, "projection.rms"),
    ],
)
def test_another_form_is_refused(baseline: Baseline, path: str, value: Any, message: str, tmp_path: Path) -> None:
    strange = copy.deepcopy(baseline)
    *parents, last = path.split("/")
    inner: Any = strange
    for part in parents:
        inner = inner[int(part) if part.isdigit() else part]
    inner[last] = value
    if "rms" in parents:
        strange[parents[0]]["rms"] = dict(sorted(inner.items()))  # in order: only the entry itself is wrong
    write_document(tmp_path / "a.json", strange)
    with pytest.raises(EvidenceError, match=message):
        read_baseline(tmp_path / "a.json")


def test_unknown_missing_and_reordered_fields_are_refused(baseline: Baseline, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for strange in (
        {**baseline, "more": 1},
        {name: value for name, value in baseline.items() if name != "probes"},
        dict(reversed(list(baseline.items()))),
    ):
        write_document(path, strange)
        with pytest.raises(EvidenceError):
            read_baseline(path)
    path.write_bytes(dump(baseline).replace(b"  ", b" "))
    with pytest.raises(EvidenceError, match="canonical"):
        read_baseline(path)


def test_every_flipped_byte_is_found(baseline: Baseline, tmp_path: Path) -> None:
    """A changed byte is refused, or a field differs; notes, hardware and history tell of the day only."""
    data = dump(baseline)
    configuration = range(data.index(b'"export_configuration"'), data.index(b'"layernorm"'))
    day = range(data.index(b'"hardware"'), len(data))
    path = tmp_path / "a.json"
    for at in range(0, len(data), 37):
        if at in configuration or at in day:
            continue
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            changed = read_baseline(path)
        except BitNetError:
            continue
        is_status = changed["status"] != baseline["status"]
        is_label = changed["model"]["export_date"] != baseline["model"]["export_date"]
        is_rounding = rounded(changed) == rounded(baseline)
        found = compare_baseline(changed, baseline)
        assert found or is_status or is_label or is_rounding, data[at - 20 : at + 20]


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value
