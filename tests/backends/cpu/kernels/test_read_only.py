"""Every kernel that writes refuses an array that must not be written to: a mapped file, for one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bitnet_numba.backends.cpu.kernels import attention, ffn, norm, quantize, residual, rope, softmax, ternary, unpack
from bitnet_numba.backends.cpu.kernels.head import full as head
from bitnet_numba.backends.cpu.kernels.head import int8_copy as head_rows
from tests.backends.cpu.kernels.inputs import alone


def ones(dtype: Any, *shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, dtype)


F32, I32, I8, U8 = np.float32, np.int32, np.int8, np.uint8
SCRATCH = ternary.gemm_scratch(1, 1, 128)
NO_SCALES = np.zeros((1, 0), F32)


def cache() -> attention.HeadBlock:
    """Return keys and values of 64 positions of 32 elements, or 128 of 16."""
    return attention.HeadBlock(ones(F32, 2048), ones(F32, 2048), ones(F32, 0), ones(F32, 0))


def store_in(block: attention.HeadBlock) -> None:
    attention.store_position(block, 0, ones(F32, 16), ones(F32, 16))


# What is written to, its shape, and a call that writes to it.
WRITERS: list[tuple[str, np.ndarray[Any, Any], Callable[[Any], Any]]] = [
    ("out", ones(F32, 32), lambda a: norm.rms_norm(ones(F32, 32), ones(F32, 32), 1e-5, 32, a)),
    ("out", ones(I8, 32), lambda a: quantize.quantize_absmax(ones(F32, 32), a)),
    ("out", ones(F32, 5), lambda a: softmax.softmax(ones(F32, 5), a)),
    ("out", ones(F32, 32), lambda a: rope.rope(ones(I32, 32), 1.0, ones(F32, 32), a)),
    ("out", ones(F32, 32), lambda a: ffn.gated_relu2(ones(I32, 64), 1.0, 1.0, a)),
    ("out", ones(F32, 32), lambda a: ffn.gated_silu(ones(I32, 64), 1.0, 1.0, a)),
    ("x", ones(F32, 32), lambda a: residual.add_scaled(a, ones(I32, 32), 1.0)),
    ("out", ones(F32, 32), lambda a: residual.scale(ones(I32, 32), 1.0, a)),
    ("out", ones(F32, 16), lambda a: attention.attend(ones(F32, 16), cache(), 9, a)),
    ("out", ones(F32, 4, 32), lambda a: attention.attend_many(ones(F32, 4, 32), cache(), 9, 2, a)),
    ("keys", ones(F32, 2048), lambda a: store_in(cache()._replace(keys=a))),
    ("values", ones(F32, 2048), lambda a: store_in(cache()._replace(values=a))),
    ("out", ones(F32, 1, 1), lambda a: head.head_product(alone(), ones(F32, 1, 32), NO_SCALES, ones(F32, 1, 32), a)),
    ("out", ones(F32, 32), lambda a: head.embedding_row(ones(F32, 1, 32), NO_SCALES, 0, a)),
    ("screen", ones(np.uint32, 2, 12, 16), lambda a: head_rows.quantize_rows(alone(), ones(F32, 1, 32), a)),
    ("out", ones(I8, 128), lambda a: unpack.unpack_lut(alone(), ones(U8, 32), unpack.value_table(I8), a)),
    (
        "out",
        ones(I32, 1, 32),
        lambda a: ternary.ternary_product(alone(), ones(U8, 1024), ones(I8, 1, 128), ones(I32, 1), a, SCRATCH),
    ),
    ("out", ones(U8, 1024), lambda a: ternary.pack(ones(U8, 32, 32), a)),
]


@pytest.mark.parametrize(("name", "array", "write"), WRITERS)
def test_refuses_to_write(name: str, array: np.ndarray[Any, Any], write: Callable[[Any], Any]) -> None:
    write(array.copy())  # a call that is right but for the flag
    array.flags.writeable = False
    with pytest.raises(ValueError, match=rf"^{name}: expected an array that can be written to"):
        write(array)
    assert np.all(array == 1)


def test_reads_from_what_is_read_only() -> None:
    x = np.ones(32, F32)
    x.flags.writeable = False
    out = np.zeros(32, F32)
    norm.rms_norm(x, x, 0.0, 32, out)
    np.testing.assert_array_equal(out, 1)
