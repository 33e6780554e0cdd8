"""``info`` on the embedded model."""

import json
import re
import sys
from typing import Any

import pytest

from bitnet_numba.backends.cpu.compiler import compiled, kernel_cache
from bitnet_numba.backends.cpu.compiler.compiled import Compilation
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.demo import demo_model_path
from bitnet_numba.generate import memory_check
from bitnet_numba_cli.info import UNKNOWN
from tests.cli.conftest import Invoke
from tests.subprocesses import run_python


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
    saved = (
        6 * 256 * (640 // 20) if cpu.packs_five_trits() else 0
    )  # feed-forward outputs alone have five runs of columns
    assert memory["ternary_weights"] == 4_718_592 // 4 - saved
    assert memory["kv_cache_of_full_context"] == 256 * memory["kv_cache_per_position"]  # in whole pages


def test_a_process_holds_no_more_than_its_model_needs() -> None:
    """A process of its own: this one has held whatever tests needed."""
    arguments = ("-m", "bitnet_numba", "info", "-m", "demo", "--memory", "--json")
    warm = [run_python(*arguments) for _ in range(2)][1]  # the first may have compiled
    assert warm.returncode == 0, warm.stderr
    sections = json.loads(warm.stdout)
    check, memory = sections["memory_check"], sections["memory"]
    assert sections.keys() == {"memory", "memory_check"}
    assert check["kv_cache"] == 256 * memory["kv_cache_per_position"]
    assert check["embedding_and_head_copied"] == 0
    parts = {name: size for name, size in check.items() if name not in ("allowed", "peak", "holds")}
    assert check["allowed"] == sum(size or 0 for size in parts.values())
    if sys.platform == "linux":
        assert 0 < check["file_pages_touched"] <= demo_model_path().stat().st_size + 4096
        assert check["holds"] is True
        assert 50e6 < check["peak"] <= check["allowed"]


def test_a_process_that_has_held_more_fails(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "compiled", Compilation())
    monkeypatch.setattr(memory_check, "touched_bytes", lambda path: 0)
    monkeypatch.setattr(memory_check, "peak_memory_mb", lambda: 5000.0)
    result = invoke("info", "-m", "demo", "--memory")
    assert result.exit_code == 1
    assert "the process has used 5.00 GB, the plan allows 30" in result.stderr
    assert "holds" in result.stdout
    assert invoke("info", "-m", "demo").exit_code == 0


def test_what_cannot_be_checked_is_said_so(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "compiled", Compilation(kernels=1))
    result = invoke("info", "-m", "demo", "--memory")
    assert result.exit_code == 0
    assert UNKNOWN in result.stdout


def test_the_machine_is_described(sections: dict[str, Any]) -> None:
    assert sections["cpu"]["chosen"] == cpu.isa()
    assert sections["cpu"]["chosen"] in sections["cpu"]["instruction_sets"]
    assert set(sections["cpu"]["features"]) == cpu.features()


def test_the_kernels_are_those_that_ran(sections: dict[str, Any]) -> None:
    kernels = sections["kernels"]
    assert (kernels["threads"], kernels["instruction_set"]) == (1, cpu.isa())
    products = cpu.vector_isa() if cpu.has_tiles() else cpu.isa()
    assert {f"i2s_gemv_{products}", f"i2s_gemm_{products}", "ffn_relu2_forward"} <= set(kernels["ids"])
    assert "ffn_silu_forward" not in kernels["ids"]


def test_the_cache_is_where_kernels_are_kept(sections: dict[str, Any]) -> None:
    assert sections["kernel_cache"]["folder"] == str(kernel_cache.cache_dir())
    assert isinstance(sections["kernel_cache"]["warm"], bool)


def test_people_get_tables(invoke: Invoke) -> None:
    lines = invoke("info", "-m", "demo", "--max-context", "1").stdout.splitlines()
    assert [line for line in lines if line and "  " not in line] == [
        "Model",
        "Memory",
        "Memory check",
        "CPU",
        "Kernels",
        "Kernel cache",
    ]
    facts = dict(line.strip().split("  ", 1) for line in lines if "  " in line)
    assert facts["ternary weights"].strip() == ("1.13 MB" if cpu.packs_five_trits() else "1.18 MB")
    assert facts["vocab size"].strip() == "4,096"
    assert facts["tied head"].strip() == "yes"
    assert facts["features"].split() == sorted(cpu.features())


def test_a_cache_that_cannot_be_had_is_said_so(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = kernel_cache.CacheFolder(None, is_writable=False, reason="/cache: Read-only file system")
    monkeypatch.setattr(kernel_cache, "cache_folder", lambda: nowhere)
    shown = invoke("info", "-m", "demo").stdout
    assert re.search(r"^ folder +none$", shown, re.MULTILINE)
    assert re.search(r"^ not kept because +/cache: Read-only file system$", shown, re.MULTILINE)
