"""CONTRIBUTING's recipe "Add an architecture": a record is all that a family needs that differs in names and flags."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bitnet_numba.export.model import ExportRequest, export_model
from bitnet_numba.export.quantize import QuantizeRequest, quantize_gguf
from bitnet_numba.formats.gguf import TensorType, open_gguf
from bitnet_numba.model import families
from bitnet_numba.model.describe import model_facts
from bitnet_numba.model.families import FAMILIES, GGUF_NAMES, HUGGING_FACE_NAMES, Family, family_of
from bitnet_numba.model.open import open_source
from bitnet_numba.model.weight_rules import Bounds, InspectionRules, Ruleset, rule
from bitnet_numba.text.chat import NAMED_TEMPLATES
from bitnet_numba.validate.inspect import inspect_model
from tests.generate.running import cpu_backend, logits_of
from tests.tiny import ToyModel, toy_model

LIKE = "bitnet-b1.58"
TOY = Family(
    architectures=("toy", "toy-2"),
    hf_classes=("ToyForCausalLM",),
    activation="relu2",  # as LIKE has it, for equal logits
    sub_norms=True,
    adjacent_pairs=True,
    rope_theta=123.0,
    chat_template="chatml",
    inspection=InspectionRules(
        floats=Ruleset("toy:float", (rule("norm_1", 0.0, 0.5),)),
        ternary=Ruleset("toy:ternary", (rule("norm_1", 0.5, 2.0),), Bounds(0.0, 0.25)),
        by_gguf_name=True,
    ),
    gguf=replace(
        GGUF_NAMES.renamed(attn_norm="norm_1", attn_q="query", ffn_down="second", token_embd="embedding"),
        layer_prefix="layer.{}.",
        scale="factor",
    ),
    hugging_face=replace(
        HUGGING_FACE_NAMES.renamed(attn_norm="ln_1", attn_q="attn.query", ffn_down="mlp.second", token_embd="wte"),
        layer_prefix="h.{}.",
        scale="factor",
        ignored=("attn.mask",),
    ),
)
SIZES: dict[str, Any] = {"hidden_size": 256, "n_heads": 4, "n_kv_heads": 2, "intermediate_size": 512}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what a file families/toy.py would do."""
    for architecture in TOY.architectures:
        monkeypatch.setitem(FAMILIES, architecture, TOY)


def toy(architecture: str = "toy", **options: Any) -> ToyModel:
    """Return a model; with the same options, its arrays are the same in both families."""
    return toy_model(architecture, seed=9, embedding_type=TensorType.BF16, **SIZES, **options)


def logits(path: Path) -> npt.NDArray[np.float32]:
    return logits_of(cpu_backend(path), toy(LIKE).tokens(20))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> npt.NDArray[np.float32]:
    """Return the logits of the same model as a file of the existing family."""
    return logits(toy(LIKE).gguf().write(tmp_path_factory.mktemp("like") / "like.gguf"))


@pytest.mark.parametrize("form", ["gguf", "checkpoint"])
def test_it_runs(form: str, expected: npt.NDArray[np.float32], tmp_path: Path) -> None:
    path = getattr(toy(), form)().write(tmp_path / form)
    source = open_source(path)
    assert source.config.family is TOY
    assert model_facts(source, None)["architecture"] == "toy"
    np.testing.assert_array_equal(logits(path), expected)


def test_its_files_have_its_own_names_and_order(tmp_path: Path) -> None:
    contents, like = toy().gguf(), toy(LIKE).gguf()
    assert {"embedding.weight", "layer.1.query.weight", "layer.0.norm_1.weight"} < contents.tensors.keys()
    assert {"wte.weight", "h.1.attn.query.weight", "h.0.attn.query.factor"} < toy().checkpoint().tensors.keys()
    ours, theirs = contents.tensors["layer.0.query.weight"], like.tensors["blk.0.attn_q.weight"]
    assert (np.asarray(ours.read()) != np.asarray(theirs.read())).any()  # adjacent pairs


def test_its_defaults(tmp_path: Path) -> None:
    contents, directory = toy(rope_theta=123.0).gguf(), toy(rope_theta=123.0).checkpoint()
    del contents.metadata["toy.rope.freq_base"], directory.config["rope_theta"], directory.config["hidden_act"]
    directory.tensors["h.0.attn.mask"] = "F32", np.ones(1, np.float32)  # an ignored name
    for path in (contents.write(tmp_path / "toy.gguf"), directory.write(tmp_path / "toy")):
        config = open_source(path).config
        assert (config.rope_theta, config.activation, config.sub_norms) == (123.0, "relu2", True)
        assert config.family.chat_template == "chatml"
    assert family_of("toy-2") is TOY


@pytest.mark.parametrize("kind", ["i2_s", "bf16"])
def test_it_is_exported(kind: str, expected: npt.NDArray[np.float32], tmp_path: Path) -> None:
    directory = toy().checkpoint().write(tmp_path / "toy")
    exported = export_model(ExportRequest(directory, tmp_path / "out", kind)).gguf
    with open_gguf(exported) as file:
        assert file.metadata["general.architecture"] == "toy"
        assert file.tensors.keys() == toy().gguf().tensors.keys()
    np.testing.assert_array_equal(logits(exported), expected)


def test_it_is_quantized(expected: npt.NDArray[np.float32], tmp_path: Path) -> None:
    path = toy().gguf(TensorType.F32).write(tmp_path / "toy.gguf")
    result = quantize_gguf(QuantizeRequest(path, tmp_path / "small.gguf", "i2_s"))
    assert len(result.tensors) == 2 * 7
    np.testing.assert_array_equal(logits(result.out), expected)


def test_it_is_inspected_by_its_own_rules(tmp_path: Path) -> None:
    good = inspect_model(toy().gguf().write(tmp_path / "toy.gguf"), ln_stats=True)
    of_checkpoint = inspect_model(toy().checkpoint().write(tmp_path / "toy"), ln_stats=True)
    of_floats = inspect_model(toy(has_masters=True).checkpoint(None).write(tmp_path / "floats"), ln_stats=True)
    rulesets = []
    for inspection in (good, of_checkpoint, of_floats):
        assert inspection.statistics is not None
        rulesets.append(inspection.statistics.ruleset.name)
        assert inspection.sizes().keys() >= {"token_embd", "attn_q", "ffn_down"}
        assert len(inspection.statistics.of("layernorm")) == 2 * 4 + 1
        assert len(inspection.statistics.of("projection")) == 2 * 7
    assert rulesets == ["toy:ternary", "toy:ternary", "toy:float"]
    assert (good.status, of_checkpoint.status, of_floats.status) == ("ok", "ok", "warning")  # norms about 1


def test_other_runtimes_compute_the_same(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra 'torch'")
    from bitnet_numba.export.torch import Model

    ids = torch.from_numpy(toy().tokens(20).astype(np.int64))
    files = toy().gguf().write(tmp_path / "toy.gguf"), toy(LIKE).gguf().write(tmp_path / "like.gguf")
    with torch.inference_mode():
        ours, theirs = (Model(open_source(path), 64)(ids).numpy() for path in files)
    np.testing.assert_array_equal(ours, theirs)


def test_an_onnx_graph_is_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs the extra 'onnx'")
    from bitnet_numba.export.onnx.graph import build_model

    files = toy().gguf().write(tmp_path / "toy.gguf"), toy(LIKE).gguf().write(tmp_path / "like.gguf")
    ours, theirs = (build_model(open_source(path), 64) for path in files)
    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


def test_the_record_in_contributing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Add an arch")[2]
    namespace: dict[str, Any] = {}
    exec(recipe.partition("```python\n")[2].partition("```")[0], namespace)
    family: Family = namespace["FAMILY"]
    [name] = family.architectures
    monkeypatch.setitem(FAMILIES, name, family)
    directory, like = toy(name).checkpoint().write(tmp_path / name), toy("llama").gguf().write(tmp_path / "llama.gguf")
    assert open_source(directory).config.family is family
    np.testing.assert_array_equal(logits(directory), logits(like))


# ---- the registry ----------------------------------------------------------------------------------------------------
def test_every_module_of_the_folder_is_a_family_with_names_of_its_own() -> None:
    modules = [path.stem for path in Path(families.__file__).parent.glob("[!_]*.py")]
    found = [import_module(f"{families.__name__}.{module}").FAMILY for module in modules] + [TOY]
    assert set(FAMILIES.values()) == set(found)
    for names in ("architectures", "hf_classes"):
        claimed = [name for family in found for name in getattr(family, names)]
        assert len(set(claimed)) == len(claimed)


@pytest.mark.parametrize("architecture", [*FAMILIES, "toy"])
def test_a_record_is_consistent(architecture: str) -> None:
    family = FAMILIES[architecture]
    assert architecture in family.architectures
    assert family.chat_template is None or family.chat_template in NAMED_TEMPLATES
    roles = family.shapes(toy(architecture).config, tied=False)
    assert ("attn_sub_norm" in {role.name for role in roles}) is family.sub_norms
    for names in (family.gguf, family.hugging_face):
        assert {names.role(names.name(role)) for role in roles} == set(roles)
