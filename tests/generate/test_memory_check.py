"""What the memory check counts, and where it does not tell."""

import json
import mmap
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bitnet_numba.generate import memory_check
from bitnet_numba.generate.memory_check import ALLOWANCE, check_memory, touched_bytes
from tests.subprocesses import run_python

FACTS = {
    "model": {"path": "/nowhere"},
    "memory": {
        "ternary_weights": 1000,
        "head_int8_copy": 100,
        "embedding_and_head_copied": 10,
        "kv_cache_per_position": 2,
    },
}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_only_touched_pages_of_a_file_count(tmp_path: Path) -> None:
    path = tmp_path / "a model.gguf"
    path.write_bytes(bytes(1 << 20))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        mapped.madvise(mmap.MADV_RANDOM)  # or the system would read ahead
        assert touched_bytes(path) == 0
        assert mapped[0] == 0
        first = touched_bytes(path) or 0
        assert all(mapped[place] == 0 for place in range(0, len(mapped), mmap.PAGESIZE))
        assert mmap.PAGESIZE <= first <= 1 << 20
        assert touched_bytes(path) == 1 << 20
        assert touched_bytes(tmp_path) == 1 << 20
        assert touched_bytes(tmp_path / "a") == 0
    assert touched_bytes(path) == 0


def test_the_plan_is_the_sum_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "touched_bytes", lambda path: 7)
    allowed = 1000 + 100 + 10 + 2 * 512 + 33 + 7 + ALLOWANCE
    for peak, holds in ((allowed, True), (allowed + 1, False)):
        monkeypatch.setattr(memory_check, "peak_memory_mb", lambda peak=peak: peak / 1e6)
        check = check_memory(FACTS, 257, 33, compiled=False)
        assert (check["allowed"], check["peak"], check["holds"]) == (allowed, peak, holds)
        assert check_memory(FACTS, 257, 33, compiled=True)["holds"] is None


def test_nothing_is_claimed_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "sys", SimpleNamespace(platform="darwin"))
    assert touched_bytes(Path("/")) is None
    assert check_memory(FACTS, 1, 0, compiled=False)["holds"] is None


KEEP_MANY = """
import json, pathlib, re
import bitnet_numba

def resident():
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmRSS:\\s+(\\d+)", status)[1])

with bitnet_numba.load("demo", threads=2, kv_type="f32", cached_prefixes=32) as model:
    def keep(first):
        model.generate([first] * 250, max_tokens=1, ignore_eos=True)
    keep(0)
    before = model.prefix_cache_bytes, resident()
    for first in range(1, 40):
        keep(first)
    after = model.prefix_cache_bytes, resident()
    plan = model.info()["memory"]["cached_prefixes_at_most"]
    print(json.dumps({"plan": plan, "kept": [before[0], after[0]], "resident": [before[1], after[1]]}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_what_is_kept_is_what_the_plan_has_and_the_process_holds() -> None:
    """A process of its own, in which nothing else comes and goes."""
    done = run_python("-c", KEEP_MANY)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kept, resident = (after - before for before, after in (found["kept"], found["resident"]))
    assert found["kept"][1] == found["plan"] == 32 * found["kept"][0]
    assert 0.9 * kept < resident < 1.1 * kept + (4 << 20)
