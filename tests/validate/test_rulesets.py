"""Built-in rulesets, and those of policy files."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitnet_numba.errors import BitNetError
from bitnet_numba.model.families import FAMILIES
from bitnet_numba.model.weight_rules import DEFAULT_BOUNDS, GENERIC_RULES, LAYERNORM, PROJECTION, Bounds, Ruleset
from bitnet_numba.validate.model_files import ModelFiles
from bitnet_numba.validate.policies import read_ruleset
from bitnet_numba.validate.rulesets import NO_RULES, auto_ruleset

F16_RULES = FAMILIES["bitnet-b1.58"].inspection.floats
I2S_RULES = FAMILIES["bitnet-b1.58"].inspection.ternary
PUBLISHED = Path(__file__).parent.parent / "data" / "published_norm_rms.csv"


def published() -> Iterator[dict[str, str]]:
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def files(architecture: str, file_type: int | None) -> ModelFiles:
    return ModelFiles(Path("m.gguf"), (Path("m.gguf"),), architecture, file_type, {}, {}, {})


@pytest.mark.parametrize(
    ("name", "rms", "is_held"),
    [
        ("blk.0.attn_norm.weight", 0.01, True),
        ("blk.0.attn_norm.weight", 0.0099, False),
        ("blk.0.attn_norm.weight", 2.0, True),
        ("blk.0.attn_norm.weight", 2.0001, False),
        ("blk.0.ffn_norm.weight", 0.5, True),
        ("blk.0.ffn_norm.weight", 0.49, False),
        ("blk.0.attn_sub_norm.weight", 5.0, True),
        ("blk.0.ffn_sub_norm.weight", 30.0, True),
        ("output_norm.weight", 15.0, True),
        ("output_norm.weight", float("nan"), False),
        ("final_norm.weight", 0.4, False),
        ("final_layernorm.weight", 0.5, True),
        ("some_norm.weight", 0.25, True),
        ("some_norm.weight", 0.24, False),
        ("some_scale.weight", 0.4, False),  # no rule: the default
    ],
)
def test_rules_of_ternary_files(name: str, rms: float, is_held: bool) -> None:
    assert I2S_RULES.bounds(LAYERNORM, name).holds(rms) is is_held


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("model.layers.0.mlp.ffn_layernorm.weight", (0.05, 2.0)),
        ("model.layers.0.post_attention_layernorm.weight", (0.25, 2.0)),
        ("model.layers.0.input_layernorm.weight", (0.35, 2.0)),
        ("final_norm.weight", (0.5, 2.0)),
        ("blk.0.ffn_norm.weight", (0.5, 2.0)),
        ("model.norm.weight", (0.5, 2.0)),
        ("blk.0.attn_norm.weight", (0.01, 2.0)),  # the official model, exported to F16
        ("blk.0.attn_sub_norm.weight", (0.01, 100.0)),
    ],
)
def test_rules_of_float_files(name: str, bounds: tuple[float, float]) -> None:
    assert F16_RULES.bounds(LAYERNORM, name) == Bounds(*bounds)


def test_projections_have_their_own_bounds() -> None:
    name = "blk.0.attn_q.weight"
    assert I2S_RULES.bounds(PROJECTION, name) == Bounds(0.002, 0.20)
    assert F16_RULES.bounds(PROJECTION, name) == Bounds(0.01, 0.40)
    assert GENERIC_RULES.bounds(PROJECTION, name).holds(1e9)
    assert not GENERIC_RULES.bounds(PROJECTION, name).holds(float("inf"))
    assert GENERIC_RULES.bounds(LAYERNORM, "blk.0.attn_norm.weight") == Bounds(0.8, 1.2)
    assert Ruleset("mine", ()).bounds(LAYERNORM, name) == DEFAULT_BOUNDS
    assert NO_RULES.bounds(LAYERNORM, "blk.0.attn_norm.weight").holds(1e9)


@pytest.mark.parametrize(
    ("architecture", "file_type", "ruleset"),
    [
        ("bitnet-b1.58", 40, I2S_RULES),
        ("bitnet-b1.58", 36, I2S_RULES),
        ("BitNet-25", 37, I2S_RULES),
        ("model-b1.58", 1, F16_RULES),
        ("bitnet", None, F16_RULES),
        ("llama", 40, GENERIC_RULES),
        ("", None, GENERIC_RULES),
    ],
)
def test_auto_goes_by_architecture_and_file_type(architecture: str, file_type: int | None, ruleset: Ruleset) -> None:
    assert auto_ruleset(files(architecture, file_type)) is ruleset


def test_published_values_of_real_models_pass() -> None:
    n_rows = 0
    for row in published():
        ruleset = I2S_RULES if "i2_s" in row["model"] else F16_RULES
        assert ruleset.bounds(row["kind"], row["tensor"]).holds(float(row["rms"])), row
        if row["kind"] == LAYERNORM and "i2_s" in row["model"]:  # the same norms, exported to F16
            assert F16_RULES.bounds(row["kind"], row["tensor"]).holds(float(row["rms"])), row
        n_rows += 1
    assert n_rows == 295


# ---- policies --------------------------------------------------------------------------------------------------------
GOOD = """\
version: 1
rules:
  mine:
    name: my rules
    ln:
      - {pattern: 'attn_norm\\.weight$', min: 0.01, max: 3, description: small}
      - {pattern: 'norm\\.weight$', min: 0.5, max: 2.0}
    proj_weight_rms_min: 0.001
    notes: for a model of mine
  other:
    ln: [{pattern: x, min: 0, max: 1}]
"""


def test_a_policy_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(GOOD, encoding="utf-8")
    ruleset = read_ruleset(path, "mine")
    assert ruleset.name == "my rules"
    assert ruleset.bounds(LAYERNORM, "blk.0.attn_norm.weight") == Bounds(0.01, 3.0)
    assert ruleset.bounds(LAYERNORM, "output_norm.weight") == Bounds(0.5, 2.0)
    assert ruleset.bounds(LAYERNORM, "gamma") == DEFAULT_BOUNDS
    assert ruleset.bounds(PROJECTION, "x") == Bounds(0.001, float("inf"))
    assert read_ruleset(path, "other").name == "other"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1", "version: 2", "version: version 2 is not read, expected 1"),
        ("version: 1\n", "", "key 'version' is missing"),
        ("version: 1", "version: true", "version True is not read"),
        ("notes:", "note:", "unknown key 'note', expected ln, name"),
        ("min: 0.01", "min: 1e-2", "min: expected a number, got the text '1e-2' (YAML wants 1.0e-3, not 1e-3)"),
        ("min: 0.01", "min: -1", "min: -1 is not a finite number of at least 0"),
        ("min: 0.01", "min: .nan", "min: nan is not a finite number"),
        ("min: 0.01", f"min: {'9' * 400}", "is not a finite number of at least 0"),
        ("min: 0.01", "min: 4", "rules: mine: ln[0]: the minimum 4 is above the maximum 3"),
        ("attn_norm\\.weight$", "attn_norm(", "pattern: 'attn_norm(' is not a regular expression"),
        ("name: my rules", "name: 7", "name: expected a text, got 7"),
        ("  other:", "  mine:", "the key 'mine' occurs twice"),
        ("ln: [{pattern: x, min: 0, max: 1}]", "ln: []", "other: ln: expected a list of at least one, got []"),
        ("rules:", "rules: []\nmore:", "unknown key 'more'"),
        ("version: 1", "version: 1\n  x: [", "line 2: not YAML"),
        ("version: 1", "!!python/object:os.system x", "not YAML"),
        ("version: 1", "\x00", "neither YAML nor JSON"),
    ],
)
def test_a_wrong_policy_is_refused_with_its_place(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in GOOD
    path = tmp_path / "rules.yml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BitNetError) as caught:
        read_ruleset(path, "mine")
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_policy(tmp_path: Path) -> None:
    deep, large, empty = tmp_path / "deep.yml", tmp_path / "large.yml", tmp_path / "empty.yml"
    deep.write_text("[" * 5000, encoding="utf-8")
    large.write_text("#" * (1 << 20) + "\nversion: 1", encoding="utf-8")
    empty.touch()
    for path, message in (
        (deep, "neither YAML nor JSON"),
        (large, "larger than 262,144 bytes"),
        (empty, "expected a mapping of names, got nothing"),
        (tmp_path, "is not a regular file"),
        (tmp_path / "absent.yml", "no such file"),
    ):
        with pytest.raises(BitNetError, match=message):
            read_ruleset(path, "mine")


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yml"
    lines = ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(BitNetError, match="line 1: a list or mapping with an alias"):
        read_ruleset(path, "mine")


def test_a_key_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "rules.yml"
    path.write_text(GOOD, encoding="utf-8")
    with pytest.raises(BitNetError, match=r"no ruleset 'bitnet-b1\.58', it has 'mine', 'other'; use --policy-key"):
        read_ruleset(path, "bitnet-b1.58")
