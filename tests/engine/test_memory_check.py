"""What the memory check counts, and where it does not tell."""

import mmap
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bitnet_numba.engine import memory_check
from bitnet_numba.engine.memory_check import ALLOWANCE, check_memory, touched_bytes

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
    allowed = 1000 + 100 + 10 + 2 * 512 + 7 + ALLOWANCE
    for peak, holds in ((allowed, True), (allowed + 1, False)):
        monkeypatch.setattr(memory_check, "peak_memory_mb", lambda peak=peak: peak / 1e6)
        check = check_memory(FACTS, 257, compiled=False)
        assert (check["allowed"], check["peak"], check["holds"]) == (allowed, peak, holds)
        assert check_memory(FACTS, 257, compiled=True)["holds"] is None


def test_nothing_is_claimed_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "sys", SimpleNamespace(platform="darwin"))
    assert touched_bytes(Path("/")) is None
    assert check_memory(FACTS, 1, compiled=False)["holds"] is None
