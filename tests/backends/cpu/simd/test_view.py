"""Views of bits: NumPy's, as jitted code sees them."""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest
from numba.core.errors import TypingError

from bitnet_numba.backends.cpu.simd.view import as_float32, as_int32


@numba.njit  # type: ignore[untyped-decorator]
def copy_views(words: Any, floats: Any, integers: Any) -> None:
    floats[...] = as_float32(words)
    integers[...] = as_int32(words)
    as_int32(words[1])[0] = -7


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4)])
def test_bits_are_viewed_in_place(shape: tuple[int, ...]) -> None:
    words = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape) * np.uint32(0x07654321)
    before = words.copy()
    floats: npt.NDArray[np.float32] = np.zeros(shape, np.float32)
    integers = np.zeros(shape, np.int32)
    copy_views(words, floats, integers)
    np.testing.assert_array_equal(floats.view(np.uint32), before)
    np.testing.assert_array_equal(integers, before.view(np.int32))
    assert (words[1].view(np.int32).reshape(-1)[: words[1, 0].size] == -7).all()


def test_other_types_do_not_compile() -> None:
    with pytest.raises(TypingError):
        copy_views(np.zeros((2, 2), np.uint64), np.zeros((2, 2), np.float32), np.zeros((2, 2), np.int32))
