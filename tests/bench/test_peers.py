"""``bench.peers`` with a llama-bench that answers, one that fails, and nothing installed."""

import importlib.util
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import peers
from bench.peers import Skipped, Speed, measure
from tests.bench.scripts import result_of

ANSWERS = [
    {"n_prompt": 8, "n_gen": 0, "avg_ts": 123.0},
    {"n_prompt": 0, "n_gen": 2, "avg_ts": 45.0},
]
FEW = ("-m", "demo", "--threads", "1", "--prompt-tokens", "8", "--tokens", "2", "--rounds", "1")


def program(path: Path, code: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{code}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="programs that are scripts")
def test_a_llama_bench_is_measured_and_a_failing_one_is_named(tmp_path: Path) -> None:
    good = program(tmp_path / "good", f"print('''{json.dumps(ANSWERS)}''')")
    bad = program(tmp_path / "bad", "import sys; sys.exit('unknown architecture')")
    missing = tmp_path / "missing"
    binaries = [text for path in (good, bad, missing) for text in ("--llama-bench", str(path))]
    result = result_of("peers", *FEW, *binaries)
    assert result["peers"][str(good)] == {"prompt_tokens_per_second": 123.0, "tokens_per_second": 45.0}
    assert result["skipped"][str(bad)] == "exit status 1: unknown architecture"
    assert result["skipped"][str(missing)] == f"{missing}: no such program"


def test_what_is_not_there_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    arguments = Namespace(model="demo", threads=1, prompt_tokens=8, tokens=2, rounds=1, llama_bench=[])
    speeds, skipped = measure(arguments)
    assert speeds.keys() == {"bitnet-numba"}
    assert min(speeds["bitnet-numba"]) > 0
    assert skipped == {
        "llama-bench": "no binary given; --llama-bench PATH",
        "transformers": "transformers is not installed",
        "llama-cpp-python": "llama_cpp is not installed",
    }


def test_the_clock_tells_the_prompt_from_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 3.0, 3.5, 4.0])
    monkeypatch.setattr(peers.time, "perf_counter", lambda: next(ticks))
    clock = peers._Clock()
    for what in ([0] * 8, 1, 2, 3):
        clock.put(what)
    clock.end()
    assert clock.speed(Namespace(prompt_tokens=8, tokens=2)) == Speed(prompt=4.0, answer=2.0)
    with pytest.raises(Skipped, match="3 tokens came, 6 were asked for"):
        clock.speed(Namespace(prompt_tokens=8, tokens=5))


class FakeLlama:
    """Answers as llama-cpp-python does: a generator of tokens that begins with reading the prompt."""

    def __init__(self, path: str, **options: Any) -> None:
        assert (path, options["n_ctx"], options["n_threads"]) == ("a.gguf", 11, 1)

    def reset(self) -> None: ...

    def generate(self, prompt: list[int], top_k: int) -> Iterator[int]:
        assert (prompt, top_k) == (list(range(8)), 1)
        yield from range(100)


def test_llama_cpp_python_is_asked_for_as_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "llama_cpp", SimpleNamespace(Llama=FakeLlama))
    speed = peers.llama_cpp(Namespace(model="a.gguf", llama_model=None, threads=1, prompt_tokens=8, tokens=2))()
    assert min(speed) > 0
