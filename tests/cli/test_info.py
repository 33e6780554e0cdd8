"""``info`` on the embedded model."""

import json
from typing import Any

import pytest

from bitnet_numba.kernels import jit
from bitnet_numba.simd import cpu
from tests.cli.conftest import Invoke


@pytest.fixture(scope="module")
def sections() -> dict[str, Any]:
    from click.testing import CliRunner

    from bitnet_numba_cli.main import cli

    arguments = ["info", "-m", "demo", "--threads", "1", "--max-context", "64", "--json"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def test_the_model_is_described(sections: dict[str, Any]) -> None:
    model = sections["model"]
    assert (model["architecture"], model["n_layers"], model["hidden_size"]) == ("bitnet-b1.58", 6, 256)
    assert model["tensor_types"]["I2_S"] == 42


def test_the_memory_plan_is_in_bytes_and_follows_the_context(sections: dict[str, Any]) -> None:
    memory = sections["memory"]
    assert memory["ternary_weights"] == 4_718_592 // 4
    assert memory["kv_cache_of_full_context"] == 64 * memory["kv_cache_per_position"]


def test_the_machine_is_described(sections: dict[str, Any]) -> None:
    assert sections["cpu"]["chosen"] == cpu.isa()
    assert sections["cpu"]["chosen"] in sections["cpu"]["instruction_sets"]
    assert set(sections["cpu"]["features"]) == cpu.features()


def test_the_kernels_are_those_that_ran(sections: dict[str, Any]) -> None:
    kernels = sections["kernels"]
    assert (kernels["threads"], kernels["instruction_set"]) == (1, cpu.isa())
    assert {f"i2s_gemv_{cpu.vector_isa()}", f"i2s_gemm_{cpu.vector_isa()}", "ffn_relu2_forward"} <= set(kernels["ids"])
    assert "ffn_silu_forward" not in kernels["ids"]


def test_the_cache_is_where_kernels_are_kept(sections: dict[str, Any]) -> None:
    assert sections["kernel_cache"]["folder"] == str(jit.cache_dir())
    assert isinstance(sections["kernel_cache"]["warm"], bool)


def test_people_get_tables(invoke: Invoke) -> None:
    lines = invoke("info", "-m", "demo", "--max-context", "1").stdout.splitlines()
    assert [line for line in lines if line and "  " not in line] == [
        "Model",
        "Memory",
        "CPU",
        "Kernels",
        "Kernel cache",
    ]
    facts = dict(line.strip().split("  ", 1) for line in lines if "  " in line)
    assert facts["ternary weights"].strip() == "1.18 MB"
    assert facts["vocab size"].strip() == "4,096"
    assert facts["tied head"].strip() == "yes"
    assert facts["features"].split() == sorted(cpu.features())


def test_a_cache_that_cannot_be_had_is_said_so(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "cache_dir", lambda: None)
    assert "folder  none" in invoke("info", "-m", "demo").stdout
