"""Memory that is page-faulted ahead: where arrays lie in it, and what happens when it does not suffice."""

from pathlib import Path

import numpy as np
import pytest

from bitnet_numba.backends.cpu import memory
from bitnet_numba.backends.cpu.load import packed_bytes
from bitnet_numba.backends.cpu.memory import HUGE_PAGE, MIN_RESERVE, Reserve
from bitnet_numba.model.open import open_source
from bitnet_numba.options import HEAD_MODES, HeadMode
from tests.generate.running import cpu_backend
from tests.subprocesses import run_python
from tests.tiny import toy_model


def test_arrays_are_zeroed_apart_and_on_pages_of_their_own() -> None:
    reserve = Reserve(MIN_RESERVE)
    small, large = reserve.allocate((3, 5), np.uint32, "a"), reserve.allocate((MIN_RESERVE // 4, 2), np.uint16, "b")
    assert (small.shape, small.dtype, large.shape, large.dtype) == (
        (3, 5),
        np.uint32,
        (MIN_RESERVE // 4, 2),
        np.uint16,
    )
    assert not small.any()
    assert not large.any()
    large[:] = 7
    small[:] = 9
    assert (large == 7).all()
    assert large.ctypes.data - small.ctypes.data == HUGE_PAGE
    assert small.ctypes.data % HUGE_PAGE == 0


def test_an_array_is_given_out_once_its_pages_are_faulted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_FAULT_BYTES", 1 << 20)
    reserve = Reserve(MIN_RESERVE)
    array = reserve.allocate((MIN_RESERVE,), np.uint8, "all")
    array[:] = 1  # what is page-faulted later would be 0 again
    reserve.allocate((6 * HUGE_PAGE,), np.uint8, "the rest")  # given out once everything is page-faulted
    assert (array == 1).all()


def test_what_does_not_fit_comes_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    monkeypatch.setattr(
        memory, "allocate", lambda shape, dtype, purpose: taken.append(purpose) or np.zeros(shape, dtype)
    )
    for n_bytes, free in ((MIN_RESERVE, MIN_RESERVE), (MIN_RESERVE // 2, None)):
        monkeypatch.setattr(memory, "available_bytes", lambda free=free: free)
        Reserve(n_bytes).allocate((4,), np.uint8, "more than nothing")
    assert taken == ["model weights", "more than nothing"] * 2


@pytest.mark.parametrize("head", HEAD_MODES)
def test_the_estimate_is_what_a_model_takes(head: HeadMode, tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 384, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 2000}
    path = toy_model(**sizes).gguf().write(tmp_path / "toy.gguf")
    backend = cpu_backend(path, threads=1, head=head)
    facts = backend.memory(prefix_pages=0)
    backend.close()
    needed = facts["ternary_weights"] + facts["head_int8_copy"]
    assert 0.98 * needed < packed_bytes(open_source(path), with_int8_copy=head == "exact") <= needed


def test_memory_is_reserved_without_numba() -> None:
    code = (
        "import sys; from bitnet_numba.backends.cpu.load import packed_bytes; "
        "from bitnet_numba.model.open import open_source; "
        "packed_bytes(open_source('demo'), with_int8_copy=True); print('numba' in sys.modules)"
    )
    assert run_python("-c", code).stdout == "False\n"
