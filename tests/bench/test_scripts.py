"""Each script ends with the JSON object that it promises; how fast anything is, no test says."""

import json
import sys

import pytest

from bench.common import interleaved, print_table
from bench.contend import ALONE, ONE_THREAD, PYTHON_THREAD, process_case, ratios
from bench.decode import bytes_per_token
from bench.lookup import expected_speed_up
from tests.bench.scripts import result_of
from tests.subprocesses import run_python

TINY = ("--threads", "2", "--rounds", "1")


def test_decode() -> None:
    result = result_of("decode", "-m", "demo", "--context", "32", "--tokens", "4", *TINY)
    assert {"tokens_per_second", "read_gb_per_second", "mbu", "isa", "rescored_rows"} <= result.keys()
    assert (result["context"], result["threads"], result["head"]) == (32, 2, "exact")
    assert result["bytes_per_token"] > 0


@pytest.mark.slow  # compiles the kernels of smoothness
def test_smoothness() -> None:
    result = result_of("smoothness", "--rows", "64", "--columns", "256", *TINY)
    assert result["steps"].keys() == {"ranges", "quantize", "pack", "dequantize", "mse search"}
    assert min(result["mse_m_weights_per_second"], result["minmax_m_weights_per_second"]) > 0
    assert result["threads"] == 2


def test_prefill() -> None:
    result = result_of("prefill", "-m", "demo", "--tokens", "64", "16", *TINY)
    assert {"prompt_tokens_per_second", "mac_share", "tokens", "threads", "isa"} <= result.keys()
    assert [row["tokens"] for row in result["prompts"]] == [16, 64]
    assert result["tokens"] == 16
    assert result["prompts"][0]["arithmetic_growth"] == 1 < result["prompts"][1]["arithmetic_growth"]


@pytest.mark.slow
def test_startup() -> None:
    result = result_of("startup", "-m", "demo", "--rounds", "1", "--no-cold")
    assert {"read_seconds", "first_token_seconds", "embedded_first_token_seconds"} <= result.keys()
    assert 0 < result["read_seconds"] < result["first_token_seconds"]


def test_context() -> None:
    result = result_of("context", "-m", "demo", "--contexts", "32", "96", "--tokens", "4", *TINY)
    near, far = result["contexts"]
    assert (near["context"], far["context"]) == (32, 96)
    assert far["bytes_per_token"] - near["bytes_per_token"] >= 64 * 3072  # keys and values
    assert near["predicted_tokens_per_second"] == pytest.approx(
        result["read_gb_per_second"] * 1e9 / near["bytes_per_token"], rel=0.02
    )


def test_lookup() -> None:
    result = result_of("lookup", "--lookup", "4", *TINY)
    assert result["same"]
    assert list(result["step_ms"]) == [str(width) for width in range(1, 17)]
    for what in ("own", "summary"):
        plain, guessed = result[what]
        assert (plain["lookup"], plain["draft_tokens"], plain["speed_up"]) == (0, 0, 1)
        assert plain["steps"] == result[f"{what}_tokens"] - 1
        assert 0 < guessed["accepted_tokens"] <= guessed["draft_tokens"]
        assert plain["steps"] - guessed["accepted_tokens"] <= guessed["steps"] < plain["steps"]


def test_the_speed_up_expected_is_that_of_steps_with_the_tokens_they_had() -> None:
    assert expected_speed_up([1, 4, 4], 6, {1: 1.0, 4: 1.5}) == 1.5
    assert expected_speed_up([1, 1], 2, {1: 0.1}) == 1


@pytest.mark.slow
def test_kv() -> None:
    result = result_of("kv", "--context", "64", "--tokens", "2", *TINY)
    assert result["positions"] > 300
    single, half, whole = result["kv_types"]
    assert [row["kv_type"] for row in (single, half, whole)] == ["f32", "f16", "int8"]
    assert single["max_logit_difference"] == 0 < half["max_kl_nats"] < whole["max_kl_nats"]
    assert 0.9 < whole["greedy_agreement"] <= single["greedy_agreement"] == 1
    assert single["bytes_per_position"] == 2 * half["bytes_per_position"] > 3 * whole["bytes_per_position"]


@pytest.mark.skipif(sys.platform != "linux", reason="pins processes to cores")
def test_contend() -> None:
    result = result_of("contend", "-m", "demo", "--tokens", "2", *TINY)
    speeds = result["tokens_per_second"]
    cases = {ONE_THREAD, ALONE, PYTHON_THREAD}
    cases |= {process_case(count, pinned=pinned) for count in (1, 2) for pinned in (False, True)}
    assert speeds.keys() == cases
    assert all(speed > 0 for speed in speeds.values())
    assert {"one_process_to_one_thread_alone", "python_thread_to_process"} <= result.keys()


def test_ratios_take_the_worse_of_pinned_and_free() -> None:
    speeds = {ONE_THREAD: 20.0, ALONE: 35.0, PYTHON_THREAD: 20.0}
    speeds |= {process_case(1): 25.0, process_case(1, pinned=True): 16.0}
    speeds |= {process_case(2): 8.0, process_case(2, pinned=True): 10.0}
    assert ratios(speeds) == {
        "one_process_to_one_thread_alone": 1.25,
        "two_processes_to_one_thread_alone": 2.5,
        "python_thread_to_process": 1.25,
    }


def test_float_multiply_adds() -> None:
    done = run_python("-m", "bench.fma", *TINY)
    assert json.loads(done.stdout.splitlines()[-1])["fma_giga_per_second"] > 0


def test_bytes_of_a_token_are_those_of_weights_screen_rescored_rows_and_context() -> None:
    memory = {"ternary_weights": 1000, "embedding": 400, "head": 0, "head_int8_copy": 200, "kv_cache_per_position": 10}
    assert bytes_per_token(memory, vocab_size=100, rows=5, context=7) == 1000 + 200 + 20 + 70
    assert bytes_per_token(memory | {"head": 800}, vocab_size=100, rows=5, context=7) == 1000 + 200 + 40 + 70


def test_interleaved_measures_take_turns() -> None:
    order: list[str] = []

    def measure(name: str, values: list[float]) -> float:
        order.append(name)
        return values.pop(0)

    first, second = [1.0, 9.0, 2.0], [4.0, 4.0, 5.0]
    assert interleaved(3, lambda: measure("a", first), lambda: measure("b", second)) == [2.0, 4.0]
    assert order == ["a", "b"] * 3


def test_tables_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["what", "GB/s"], [["a", "1.5"], ["longer", "10.25"]])
    assert capsys.readouterr().out == "what     GB/s\na         1.5\nlonger  10.25\n"


def test_replay() -> None:
    result = result_of("replay", "-m", "demo", "--tokens", "40", *TINY)
    assert result["tokens"] == 40
    assert [row["confirmed"] for row in result["samplings"].values()] == [True, True, True]
    assert all(row["speed_up"] > 0 and row["receipt_share"] > 0 for row in result["samplings"].values())
