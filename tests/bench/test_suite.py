"""What ``make bench`` runs and keeps, and the models that it makes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import bitnet_numba
from bench import make_model, suite
from bench.suite import Run, machine, measure, model_path, runs


def test_a_run_keeps_its_result_its_command_and_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "RESULTS", tmp_path / "results")
    measure(Run("peak-1", "peak", ["--threads", "1", "--rounds", "1"]))
    kept = json.loads((tmp_path / "results" / "peak-1.json").read_text(encoding="utf-8"))
    assert kept["command"] == "python -m bench.peak --threads 1 --rounds 1"
    assert kept["machine"] == machine()
    assert kept["result"]["peak_gmacs_per_second"] > 0


def test_every_run_has_a_name_of_its_own_and_a_script() -> None:
    assert len({run.name for run in runs()}) == len(runs())
    assert all((suite.TOP / "bench" / f"{run.script}.py").is_file() for run in runs())


def test_a_model_of_one_s_own_stands_in_for_the_main_one_and_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "RESULTS", tmp_path)
    monkeypatch.setenv("BENCH_MODEL", str(tmp_path / "mine.gguf"))
    assert model_path("8B") == Path(".cache/bench/8B.gguf")
    run = Run("decode", "decode", ["--rounds", "1"], "2B-4T")
    assert run.command()[:5] == ["python", "-m", "bench.decode", "-m", str(tmp_path / "mine.gguf")]
    with pytest.raises(Exception, match="returned non-zero exit status 1"):
        measure(run)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("for_llama_cpp", [False, True])
@pytest.mark.parametrize("name", make_model.SHAPES)
def test_models_of_every_architecture_are_read(
    name: str, for_llama_cpp: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = make_model.SHAPES[name]
    few = {"n_layers": 2, "hidden_size": 256, "intermediate_size": 512, "n_heads": 4, "n_kv_heads": 2}
    monkeypatch.setitem(make_model.SHAPES, name, replace(shape, vocab_size=300, max_seq_len=64, **few))
    make_model.make_model(name, tmp_path / "folder" / "model.gguf", for_llama_cpp=for_llama_cpp)
    with bitnet_numba.load(tmp_path / "folder" / "model.gguf", threads=1) as model:
        facts = model.info()["model"]
        own = {"bitnet-b1.58": "bitnet"} if for_llama_cpp else {}
        assert (facts["architecture"], facts["tied_head"]) == (
            own.get(shape.architecture, shape.architecture),
            shape.tied,
        )
        assert set(facts["tensor_types"]) == {"F16", "F32", "TQ2_0" if for_llama_cpp else "I2_S"}
        assert len(model.generate([1, 2, 3], max_tokens=4, ignore_eos=True).token_ids) == 4
