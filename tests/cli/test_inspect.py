"""``inspect`` on the embedded model and on spoilt copies of it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from bitnet_numba.demo import demo_model_path
from bitnet_numba.formats.gguf import TensorType
from tests.cli.conftest import Invoke
from tests.subprocesses import run_python
from tests.tiny import toy_model
from tests.tiny_files import GGUFModel, bf16_bits, replaced, stored_bytes
from tests.validate.spoilt import put, scale_norms, spoilt

KEYS = {"model_sha256", "ruleset", "layernorm", "projection", "strict_mode", "tensors", "status"}


@pytest.fixture(autouse=True)
def no_strict_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BITNET_STRICT_MODE", raising=False)


@pytest.fixture(scope="module")
def small_norms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the embedded model with two norms that are too small."""
    names = ["blk.0.ffn_norm.weight", "blk.5.attn_norm.weight"]
    return spoilt(tmp_path_factory.mktemp("models") / "small.gguf", lambda model: scale_norms(model, 0.005, names))


def test_the_embedded_model_is_healthy(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITNET_STRICT_MODE", "Yes")
    result = invoke("inspect", "demo", "--ln-stats", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found.keys() >= KEYS
    assert found["model_sha256"] == hashlib.sha256(demo_model_path().read_bytes()).hexdigest()
    assert (found["ruleset"], found["status"], found["strict_mode"]) == ("bitnet-b1.58:i2_s", "ok", True)
    assert found["layernorm"] == {"total": 25, "suspicious": 0}
    assert found["projection"] == {"total": 42, "suspicious": 0}
    assert all(tensor.keys() == {"name", "kind", "rms", "status"} for tensor in found["tensors"])
    assert found["tensors"][0]["name"] == "blk.0.attn_norm.weight"
    assert found["tensors"][0]["rms"] == pytest.approx(0.7008714802808235, rel=1e-12)
    assert found["sizes"]["attn_q"] == {"tensors": 6, "bytes": 6 * (256 * 256 // 4 + 32)}
    assert found["metadata"]["tokenizer.ggml.tokens"] == {"type": "STRING", "length": 4096}
    assert len(found["tensor_table"]) == found["header"]["tensors"] == 68


def test_without_statistics_nothing_is_judged(invoke: Invoke, small_norms: Path) -> None:
    result = invoke("inspect", str(small_norms), "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout).keys() & KEYS == {"model_sha256"}


def test_people_get_tables(invoke: Invoke) -> None:
    text = invoke("inspect", "--ln-stats").stdout
    assert "\nVerdict\n ruleset      bitnet-b1.58:i2_s\n norms        25, 0 suspicious\n" in text
    assert "blk.0.attn_norm.weight      0.7009     ok" in text
    assert "tokenizer.ggml.merges                          3,836 of STRING" in text


def test_what_is_suspicious_is_a_warning(invoke: Invoke, small_norms: Path) -> None:
    result = invoke("inspect", str(small_norms), "--ln-stats", "--json")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"warning: {small_norms}: 2 tensors outside the ruleset bitnet-b1.58:i2_s")
    assert "the first is blk.0.ffn_norm.weight" in result.stderr
    found = json.loads(result.stdout)
    assert (found["status"], found["layernorm"]["suspicious"]) == ("warning", 2)


def test_strict_mode_makes_it_an_error(invoke: Invoke, small_norms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITNET_STRICT_MODE", "1")
    result = invoke("inspect", str(small_norms), "--ln-stats", "--json")
    assert result.exit_code == 8
    assert json.loads(result.stdout)["status"] == "failed"
    assert result.stderr.startswith("error: ")
    assert invoke("inspect", str(small_norms), "--gate", "auto").exit_code == 8
    assert invoke("inspect", str(small_norms), "--gate", "none").exit_code == 0


def test_a_policy_of_the_user_s_own(
    invoke: Invoke, small_norms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITNET_STRICT_MODE", "1")
    rules = {"ln": [{"pattern": "norm", "min": 0.001, "max": 9}], "proj_weight_rms_max": 0.3}
    policy = tmp_path / "rules.json"
    policy.write_text(json.dumps({"version": 1, "rules": {"bitnet-b1.58": rules, "mine": rules}}), encoding="utf-8")
    gate = ("--ln-stats", "--json", "--gate", "policy", "--policy", str(policy))
    assert json.loads(invoke("inspect", str(small_norms), *gate).stdout)["ruleset"] == "bitnet-b1.58"
    assert json.loads(invoke("inspect", str(small_norms), *gate, "--policy-key", "mine").stdout)["status"] == "ok"
    assert invoke("inspect", str(small_norms), *gate, "--policy-key", "his").exit_code == 2


@pytest.mark.parametrize("options", [["--gate", "policy"], ["--policy", "x.yml"], ["--policy-key", "x"]])
def test_options_that_do_not_go_together(invoke: Invoke, options: list[str]) -> None:
    result = invoke("inspect", *options)
    assert result.exit_code == 2
    assert "--gate policy needs --policy FILE" in result.stderr


def test_a_norm_that_is_not_finite_is_null_in_json(invoke: Invoke, tmp_path: Path) -> None:
    nan = np.full(256, np.nan, np.float32).view(np.uint8)
    path = spoilt(tmp_path / "nan.gguf", lambda model: put(model, "output_norm.weight", nan))
    found = json.loads(invoke("inspect", str(path), "--ln-stats", "--json").stdout)
    bad = [tensor for tensor in found["tensors"] if tensor["status"] == "suspicious"]
    assert bad == [{"name": "output_norm.weight", "kind": "layernorm", "rms": None, "status": "suspicious"}]


@pytest.mark.parametrize("name", ["blk.2.ffn_sub_norm.weight", "output_norm.weight"])
def test_a_quantized_norm_is_an_error(invoke: Invoke, tmp_path: Path, name: str) -> None:
    def quantize(model: GGUFModel) -> None:
        n = model.tensors[name].shape[0]
        values = stored_bytes(np.ones((1, n), np.float32), TensorType.Q8_0)
        model.tensors[name] = replaced(model.tensors[name], type=TensorType.Q8_0, data=values)

    path = spoilt(tmp_path / "quantized.gguf", quantize)
    result = invoke("inspect", str(path))
    assert result.exit_code == 1
    assert f"tensor '{name}': a norm quantized to Q8_0" in result.stderr


def test_a_norm_is_known_by_its_name_alone_too(invoke: Invoke, tmp_path: Path) -> None:
    name = "model.layers.0.post_feedforward_layernorm.weight"
    toy = toy_model().gguf()
    source = replaced(toy.tensors["output_norm.weight"], name=name, type=TensorType.Q8_0)
    toy.tensors[name] = replaced(source, data=stored_bytes(np.ones((1, 128), np.float32), TensorType.Q8_0))
    result = invoke("inspect", str(toy.write(tmp_path / "toy.gguf")))
    assert result.exit_code == 1
    assert name in result.stderr


def test_texts_of_the_file_cannot_write_to_the_terminal(invoke: Invoke, tmp_path: Path) -> None:
    toy = toy_model().gguf()
    toy.metadata |= {
        "toy.scale": float("nan"),
        "toy.\x1b[2J": 1,
        "general.name": "\x1b[31mred",
        "tokenizer.chat_template": "[/INST] " + "x" * 500,
    }
    text = invoke("inspect", str(toy.write(tmp_path / "toy.gguf"))).stdout
    assert "\x1b" not in text
    assert r"\x1b[31mred" in text
    assert "[/INST] xxx" in text
    assert r"toy.\x1b[2J" in text
    assert "x" * 101 not in text
    found = json.loads(invoke("inspect", str(tmp_path / "toy.gguf"), "--json").stdout, parse_constant=pytest.fail)
    assert found["metadata"]["toy.scale"] == "nan"


def test_a_hugging_face_directory(invoke: Invoke, tmp_path: Path) -> None:
    toy = toy_model().checkpoint()
    name = "model.layers.0.input_layernorm.weight"
    toy.tensors[name] = "BF16", bf16_bits(np.full(128, 0.0115, np.float32))  # as in the official model
    directory = toy.write(tmp_path / "toy", n_shards=2)
    found = json.loads(invoke("inspect", str(directory), "--ln-stats", "--json").stdout)
    shards = sorted(directory.glob("*.safetensors"))
    lines = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in shards)
    assert found["model_sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert (found["ruleset"], found["header"]["files"]) == ("bitnet-b1.58:i2_s", 2)
    assert (found["status"], found["layernorm"]["total"]) == ("ok", 9)


def test_a_wrong_config_is_an_error_with_its_place(invoke: Invoke, tmp_path: Path) -> None:
    toy = toy_model().checkpoint()
    del toy.config["num_hidden_layers"]
    directory = toy.write(tmp_path / "toy")
    result = invoke("inspect", str(directory))
    assert result.exit_code == 1
    assert result.stderr == f"error: {directory}: config.json: key 'num_hidden_layers': missing\n"


def test_a_model_that_is_not_run_here_can_be_inspected(invoke: Invoke, tmp_path: Path) -> None:
    toy = toy_model(has_masters=True).checkpoint(None)
    toy.config.update({"architectures": ["GemmaForCausalLM"], "model_type": "gemma", "quantization_config": {}})
    found = json.loads(invoke("inspect", str(toy.write(tmp_path / "toy")), "--ln-stats", "--json").stdout)
    assert (found["architecture"], found["ruleset"]) == ("gemma", "generic")


def test_a_directory_of_one_file_has_its_digest(invoke: Invoke, tmp_path: Path) -> None:
    directory = toy_model(has_masters=True).checkpoint(None).write(tmp_path / "toy")
    found = json.loads(invoke("inspect", str(directory), "--ln-stats", "--json").stdout)
    digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    assert (found["model_sha256"], found["ruleset"]) == (digest, "bitnet-b1.58:f16")


def test_numba_stays_away() -> None:
    code = "import sys; from bitnet_numba_cli.main import cli\n"
    code += "try: cli.main(['inspect', 'demo', '--ln-stats', '--json'])\n"
    code += "finally: sys.stderr.write(str({'numba', 'llvmlite', 'yaml'} & sys.modules.keys()))"
    done = run_python("-c", code, PYTHONPATH="cli")
    assert (done.returncode, done.stderr) == (0, "set()")
    assert json.loads(done.stdout)["status"] == "ok"
