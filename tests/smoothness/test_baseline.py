"""Models of several kinds are quantized, measured, written and read back; Phase 2 and 3 are measured, not believed."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from bitnet_numba.errors import BitNetError, FormatError
from bitnet_numba.formats.packing.masters import absmean_ternary
from bitnet_numba.formats.safetensors import open_checkpoint
from bitnet_numba.smoothness.baseline import NOTHING_TO_DO, SmoothnessRequest, establish
from bitnet_numba.smoothness.packed import PackedModel
from tests.docs.markdown import ROOT
from tests.smoothness import twins
from tests.smoothness.models import calibration, dream, normal, one_file
from tests.tiny import toy_checkpoint

pytestmark = pytest.mark.slow  # compiling takes some seconds

FIRST = [
    "model_name",
    "bit_width",
    "num_time_groups",
    "smoothness_score",
    "violation_count",
    "violations",
    "boundary_scores",
    "cosine_similarity",
    "compression_ratio",
    "model_size_mb",
    "quantization_time_s",
    "min_boundary_score",
    "max_boundary_score",
    "mean_boundary_score",
    "std_boundary_score",
    "common_violation_patterns",
]


def established(model: Path, **options: Any) -> dict[str, Any]:
    return establish(SmoothnessRequest(model, model.parent / "out", **options))


def dequantized(out: Path, name: str) -> Any:
    packed = PackedModel(out)
    try:
        return packed.dequantize(name)
    finally:
        packed.close()


def relative_error(weights: Any, back: Any) -> Any:
    w = weights.astype(np.float64)
    return pytest.approx(float(((w - back) ** 2).sum() / (w**2).sum()), rel=1e-9)


# ---- directories -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n_shards", [1, 4])
def test_a_directory_with_dream_s_names_is_measured(tmp_path: Path, n_shards: int) -> None:
    result = established(dream().write(tmp_path / "dream", n_shards))
    assert list(result)[: len(FIRST)] == FIRST
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert (result["quantized_tensor_count"], result["grouping"], result["num_time_groups_effective"]) == (
        21,
        "rows",
        4,
    )
    reasons = {kept["name"]: kept["reason"] for kept in result["kept_tensors"]}
    assert reasons["model.embed_tokens.weight"] == "embedding"
    assert reasons["lm_head.weight"] == "head"
    assert reasons["model.layers.0.self_attn.q_proj.bias"] == "1-D"
    assert "takes no timestep input" in result["notes"][0]
    assert {"config.json", "tokenizer_config.json"} <= {file.name for file in (tmp_path / "out").iterdir()}


def test_a_checkpoint_with_llama_s_names_is_measured_by_layers_if_ternary(tmp_path: Path) -> None:
    result = established(toy_checkpoint().write(tmp_path / "toy"), ternary=True)
    assert (result["quantizer"], result["grouping"], result["num_time_groups_effective"]) == ("ternary", "depth", 2)
    assert {entry["name"] for entry in result["per_role"]} >= {"model.layers.*.mlp.up_proj.weight"}
    assert result["quantized_tensor_count"] == 14
    assert result["zero_point_jumps"] == [0.0]


def test_packed_ternary_codes_are_measured_as_they_are(tmp_path: Path) -> None:
    contents = toy_checkpoint(linear_class="bitlinear")
    model = contents.write(tmp_path / "toy")
    result = established(model, optimize=True, smooth="linear")
    assert (result["bit_width"], result["quantizer"], result["sqnr_db"]) == (2, "ternary", None)
    assert result["cosine_min"] == 1.0
    assert "as they are" in result["notes"][0]
    assert all(layer["native_ternary"] for layer in result["per_layer"])
    assert result["smoothing"]["reason"] == result["optimization"]["reason"] == NOTHING_TO_DO


def test_any_other_directory_is_measured_and_what_is_left_is_listed(tmp_path: Path) -> None:
    tensors = {"h.0.attn.c_attn.weight": normal((7, 33)), "wte.weight": normal((5, 7)), "conv": normal((2, 2, 2))}
    tensors |= {"h.0.ln_1.weight": normal((7,)), "one_row": normal((1, 5))}
    model = one_file(tmp_path / "any", tensors, "weights.safetensors")
    result = established(model)
    assert [layer["name"] for layer in result["per_layer"]] == ["h.0.attn.c_attn.weight", "one_row"]
    assert {kept["name"]: kept["reason"] for kept in result["kept_tensors"]} == {
        "wte.weight": "embedding",
        "conv": "3-D",
        "h.0.ln_1.weight": "1-D",
    }
    with open_checkpoint(tmp_path / "out") as written:
        for kept in result["kept_tensors"]:
            assert np.array_equal(written.float32(kept["name"]), tensors[kept["name"]])


# ---- packed output ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("grouping", ["rows", "columns"])
def test_packed_codes_have_b_bits_and_dequantize_to_the_twin_s_bits(tmp_path: Path, bits: int, grouping: str) -> None:
    weights, top = normal((10, 37)), (1 << bits) - 1
    result = established(one_file(tmp_path / "m", {"w": weights}), bit_width=bits, grouping=grouping, num_time_groups=3)
    [shard] = (tmp_path / "out").glob("*.safetensors")
    stored = safetensors.numpy.load_file(shard)
    assert stored["w.codes"].shape == (10, math.ceil(37 * bits / 8))
    axis = 1 if grouping == "columns" else 0
    cuts = [i * weights.shape[axis] // 3 for i in range(1, 3)]
    parts = []
    for part in np.split(weights, cuts, axis):
        scale = np.float32((np.float64(part.max()) - np.float64(part.min())) / top)
        zero = np.float32(np.rint(-np.float64(part.min()) / scale))
        parts.append((twins.codes_of(part, scale, zero, top) - zero) * scale)
    expected = np.concatenate(parts, axis)
    assert np.array_equal(dequantized(tmp_path / "out", "w"), expected)
    assert result["relative_mse"] == relative_error(weights, expected)
    n_bytes = sum(array.nbytes for array in stored.values())
    assert result["compression_ratio"] == weights.nbytes / n_bytes
    assert result["model_size_mb"] == n_bytes / 2**20


def test_ternary_codes_are_those_of_absmean(tmp_path: Path) -> None:
    weights = normal((12, 40))
    established(one_file(tmp_path / "m", {"layers.0.w": weights}), ternary=True)
    codes, scale = absmean_ternary(weights)
    assert np.array_equal(dequantized(tmp_path / "out", "layers.0.w"), codes * scale)


@pytest.mark.parametrize(("bits", "expected"), [(2, 2.141), (4, 4.156), (8, 8.188)])
def test_effective_bits_at_a_group_size_of_128(tmp_path: Path, bits: int, expected: float) -> None:
    model = one_file(tmp_path / "m", {"w": normal((8, 1024))})
    result = established(model, bit_width=bits, group_size=128)
    assert result["effective_bits_per_weight"] == pytest.approx(expected, abs=6e-4)
    weights, back = normal((8, 1024)), dequantized(tmp_path / "out", "w")
    assert result["relative_mse"] == relative_error(weights, back)


# ---- what the numbers are --------------------------------------------------------------------------------------------
def test_ranges_and_group_sizes_have_the_known_qualities(tmp_path: Path) -> None:
    model = one_file(tmp_path / "m", {"w": normal((512, 1024), spread=1.0)})
    cosine = {
        name: established(model, **options)["cosine_similarity"]
        for name, options in {
            "minmax": {},
            "mse": {"range": "mse"},
            "g128": {"group_size": 128},
            "ternary": {"ternary": True, "grouping": "rows"},
        }.items()
    }
    assert cosine["minmax"] == pytest.approx(0.70, abs=0.06)
    assert cosine["mse"] == pytest.approx(0.92, abs=0.02)
    assert cosine["g128"] == pytest.approx(0.89, abs=0.03)
    assert cosine["ternary"] == pytest.approx(0.887, abs=0.01)


def test_score_and_quality_differ_on_heavy_tails(tmp_path: Path) -> None:
    weights = np.random.default_rng(1).standard_t(4, (1024, 512)).astype(np.float32)
    model = one_file(tmp_path / "m", {"layers.0.w": weights, "layers.1.w": weights * np.float32(1.001)})
    eight, ternary = established(model, bit_width=8), established(model, ternary=True)
    assert eight["smoothness_score"] < 0.95 < 0.99 < eight["cosine_similarity"]
    assert ternary["smoothness_score"] > 0.99 > 0.85 > ternary["cosine_similarity"]


def test_a_power_of_two_changes_no_metric(tmp_path: Path) -> None:
    weights = normal((16, 64))
    names = ("smoothness_score", "boundary_scores", "cosine_similarity", "sqnr_db", "swap_penalty_db")
    results = []
    for exponent in (0, 7):
        model = one_file(tmp_path / f"m{exponent}", {"w": weights * np.float32(2.0**exponent)})
        results.append({name: established(model)[name] for name in names})
    assert results[0] == results[1]


def test_a_swap_costs_what_requantizing_with_the_neighbour_costs(tmp_path: Path) -> None:
    weights = normal((8, 64))
    weights[4:] *= 3
    result = established(one_file(tmp_path / "m", {"w": weights}), bit_width=4, num_time_groups=2)
    groups = [(part, part.min(), part.max()) for part in (weights[:4], weights[4:])]

    def sqnr(part: Any, low: Any, high: Any) -> float:
        scale = np.float32((np.float64(high) - np.float64(low)) / 15)
        zero = np.float32(np.rint(-np.float64(low) / scale))
        back = (twins.codes_of(part, scale, zero, 15) - zero) * scale
        return 10 * math.log10(float((part.astype(float) ** 2).sum() / ((part.astype(float) - back) ** 2).sum()))

    (a, *own_a), (b, *own_b) = groups
    expected = (sqnr(a, *own_a) - sqnr(a, *own_b) + sqnr(b, *own_b) - sqnr(b, *own_a)) / 2
    assert result["swap_penalty_db"] == [pytest.approx(expected, abs=1e-4)]
    assert expected > 3


# ---- Phase 2 and 3 ---------------------------------------------------------------------------------------------------
def rough(tmp_path: Path) -> Path:
    weights = normal((64, 128))
    weights[16:32] *= 4
    return one_file(tmp_path / "rough", {"w": weights})


def test_smoothing_that_costs_sqnr_is_refused_and_the_original_kept(tmp_path: Path) -> None:
    model = rough(tmp_path)
    plain = established(model, bit_width=8)
    kept = dequantized(tmp_path / "out", "w")
    result = established(model, bit_width=8, smooth="linear")
    section = result["smoothing"]
    assert not section["accepted"]
    assert "refused: SQNR would fall by" in section["reason"]
    assert section["delta"]["sqnr_db"] < -0.1
    assert section["after"]["smoothness_score"] > section["before"]["smoothness_score"] == result["smoothness_score"]
    assert result["smoothness_score"] == plain["smoothness_score"]
    assert np.array_equal(dequantized(tmp_path / "out", "w"), kept)


@pytest.mark.parametrize("kind", ["linear", "cubic", "sigmoid"])
def test_smoothing_that_is_allowed_is_written(tmp_path: Path, kind: str) -> None:
    result = established(rough(tmp_path), bit_width=8, smooth=kind, max_sqnr_drop=50.0)
    section = result["smoothing"]
    assert section["accepted"]
    assert result["smoothness_score"] == section["after"]["smoothness_score"] > section["before"]["smoothness_score"]
    weights, back = open_checkpoint(tmp_path / "rough").float32("w"), dequantized(tmp_path / "out", "w")
    assert section["after"]["relative_mse"] == relative_error(weights, back)


def test_optimization_only_takes_what_makes_the_tensor_better(tmp_path: Path) -> None:
    result = established(rough(tmp_path), optimize=True)
    section = result["optimization"]
    [tensor] = section["tensors"]
    assert section["accepted"]
    assert tensor["full_relative_mse_after"] < tensor["full_relative_mse_before"]
    assert section["terms_after"]["loss"] < section["terms_before"]["loss"]
    assert section["after"]["relative_mse"] == pytest.approx(tensor["full_relative_mse_after"])
    assert 1 <= section["iterations"] <= 50
    assert section["converged"] in (True, False)
    assert result["relative_mse"] == section["after"]["relative_mse"] < section["before"]["relative_mse"]


# ---- timesteps -------------------------------------------------------------------------------------------------------
def test_a_calibration_file_makes_a_chain_of_timesteps(tmp_path: Path) -> None:
    model, file = dream().write(tmp_path / "dream"), calibration(tmp_path / "samples.jsonl")
    result = established(model, calibration=file, bit_width=8, num_time_groups=5, smooth="linear", max_sqnr_drop=40.0)
    assert (result["grouping"], result["num_time_groups_effective"]) == ("timesteps", 5)
    section = result["smoothing"]
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    scales = []
    for step in range(10):
        values = np.array([s["data"] for s in samples if s["timestep"] == step], np.float32)
        scales.append((float(values.max()) - float(values.min())) / 255)
    groups = [math.sqrt(scales[2 * g] * scales[2 * g + 1]) for g in range(5)]
    jumps = [abs(b - a) / a for a, b in pairwise(groups)]
    assert section["before"]["violation_count"] == sum(jump > 0.3 for jump in jumps)
    assert section["before"]["timesteps"] == 10
    assert result["activations"] == section["after"]
    assert section["after"]["sqnr_db"] != section["before"]["sqnr_db"]


SAMPLE = {"data": [1.0, -2.0], "timestep": 0, "shape": [2]}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "no samples"),
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: expected an object of data, timestep and shape"),
        ('{"data": [NaN, 1], "timestep": 0, "shape": [2]}', "NaN is no number of JSON"),
        ('{"data": [1, 2], "data": [1, 2], "timestep": 0, "shape": [2]}', "occurs twice"),
        (json.dumps(SAMPLE | {"data": [1e39, 0]}), "not finite as float32"),
        (json.dumps(SAMPLE | {"data": [10**400, 0]}), "not finite as float32"),
        (json.dumps(SAMPLE | {"data": [True, 0]}), "data is not a list of numbers"),
        (json.dumps(SAMPLE | {"timestep": -1}), "timestep -1"),
        (json.dumps(SAMPLE | {"timestep": True}), "timestep True"),
        (json.dumps(SAMPLE | {"shape": [3]}), "2 numbers do not fill the shape [3]"),
        (json.dumps(SAMPLE | {"shape": []}), "shape []"),
        (json.dumps(SAMPLE | {"extra": 1}), "expected an object"),
        (json.dumps(SAMPLE) + "\nx", "line 2: not JSON"),
    ],
)
def test_a_bad_calibration_file_is_refused_by_its_line(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text(line)
    with pytest.raises(FormatError) as caught:
        established(one_file(tmp_path / "m", {"w": normal((4, 4))}), calibration=file)
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()


# ---- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path: Path, value: float, ternary: bool) -> None:
    weights = normal((4, 40))
    weights[2, 39] = value
    tensors = {"layers.0.good": normal((4, 4)), "layers.1.bad": weights}
    with pytest.raises(FormatError, match=r"tensor 'layers\.1\.bad' holds NaN or infinity"):
        established(one_file(tmp_path / "m", tensors), ternary=ternary)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_with_a_stranger_s_weights_is_not_overwritten(tmp_path: Path) -> None:
    model = one_file(tmp_path / "m", {"w": normal((4, 4))})
    one_file(tmp_path / "out", {"w": normal((4, 4))})
    with pytest.raises(BitNetError, match=r"holds model\.safetensors, which this command did not write"):
        established(model)
    with pytest.raises(BitNetError, match="is the model itself"):
        establish(SmoothnessRequest(model, model))


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    established(dream().write(tmp_path / "dream"))
    established(one_file(tmp_path / "m", {"w": normal((4, 4))}))
    packed = PackedModel(tmp_path / "out")
    assert packed.names == ["w"]
    packed.close()


def test_weights_that_are_all_zero_are_exact(tmp_path: Path) -> None:
    result = established(one_file(tmp_path / "m", {"layers.0.w": np.zeros((8, 8), np.float32)}))
    assert (result["cosine_similarity"], result["sqnr_db"], result["smoothness_score"]) == (1.0, None, 1.0)
    assert not dequantized(tmp_path / "out", "layers.0.w").any()


# ---- reference -------------------------------------------------------------------------------------------------------
def test_every_field_is_in_the_reference_in_its_order(tmp_path: Path) -> None:
    model, file = dream().write(tmp_path / "dream"), calibration(tmp_path / "samples.jsonl")
    by_depth = established(model, grouping="depth", smooth="linear", optimize=True)
    by_timesteps = established(model, calibration=file)
    page = (ROOT / "docs" / "reference" / "smoothness.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert [name for name in documented if name in by_depth] == list(by_depth)
    assert [name for name in documented if name in by_timesteps] == list(by_timesteps)
    assert set(documented) - by_depth.keys() - by_timesteps.keys() == {"accuracy"}
    entries = (by_depth["smoothing"], by_depth["optimization"], *by_depth["per_layer"])
    inner = {name for entry in entries for name in entry}
    assert all(f"`{name}`" in page for name in inner)
