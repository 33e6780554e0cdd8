"""Each operator on the inputs that bitnet.cpp itself computed, against what it made of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bitnet_numba.backends.cpu.kernels.ffn import gated_relu2, gated_silu
from bitnet_numba.backends.cpu.kernels.norm import rms_norm
from bitnet_numba.backends.cpu.kernels.quantize import quantize_absmax
from bitnet_numba.backends.cpu.kernels.rope import rope, rope_table
from bitnet_numba.backends.cpu.kernels.softmax import softmax
from bitnet_numba.backends.cpu.kernels.ternary import pack
from bitnet_numba.model.rope_scaling import inverse_frequencies
from bitnet_numba.model.source import ModelSource
from tests.backends.cpu.kernels.running import ternary_product
from tests.cut_references import OPERATORS, POSITIONS
from tests.generate.running import FIXTURES, needs_fixtures, open_model
from tests.reference_logits import DATA

Floats = npt.NDArray[np.float32]

# How bitnet.cpp's graphs name an operator's output; llama's graph has other names, and no sub-norms.
OF_BITNET = {"attention": "kqv_out-{}.CONT", "output": "attn_o_out-{}.MUL_MAT", "gated": "ffn_out-{}.MUL"}
OF_LLAMA = {"attention": "kqv_merged_cont-{}.CONT", "output": "kqv_out-{}.MUL_MAT", "gated": "ffn_gate_par-{}.MUL"}


class Operators:
    """The operators' outputs of one layer, at some positions.

    Attributes
    ----------
    source : ModelSource
    layer : int
    positions : int64[n]
    """

    def __init__(
        self, source: ModelSource, dump: Mapping[str, Floats], layer: int, positions: npt.NDArray[np.int64] | None
    ) -> None:
        self.source, self.layer = source, layer
        self.positions = POSITIONS if positions is None else positions
        self._dump = dump
        self.names = OF_BITNET if source.config.sub_norms else OF_LLAMA

    def __getitem__(self, name: str) -> Floats:
        return self._dump["p0." + self.names.get(name, name).format(self.layer)]

    def linear(self, role: str, x: Floats) -> Floats:
        """Return what our BitLinear makes of activations, float32[n, rows]."""
        matrix = self.source.linear(role, self.layer)
        assert matrix.i2s is not None
        rows, packed = matrix.i2s.shape[0], pack(matrix.i2s)
        out = np.empty((len(x), rows), np.float32)
        for row, activations in zip(out, np.ascontiguousarray(x), strict=True):
            q = np.empty((1, x.shape[1]), np.int8)
            scale, _ = quantize_absmax(activations, q[0])
            row[:] = ternary_product(packed, q, 1)[0].astype(np.float32) * (matrix.scale / np.float32(scale))
        return out


def operators(folder: Path, dumps: Path, suffix: str, *, whole: bool) -> Iterator[Any]:
    for name, layers in OPERATORS.items():
        for layer in range(4) if whole else layers:
            yield pytest.param((folder / f"{name}-i2_s.gguf", dumps / f"{name}-{suffix}.npz", layer, whole))


@pytest.fixture(
    params=[
        *operators(DATA / "bitnetcpp", DATA / "bitnetcpp", "cut", whole=False),
        *(
            pytest.param(*case.values, marks=needs_fixtures)
            for case in operators(FIXTURES / "bitnetcpp", FIXTURES / "bitnetcpp", "ref", whole=True)
        ),
    ],
    ids=lambda case: f"{case[0].stem}-{case[2]}{'-whole' if case[3] else ''}",
)
def ops(request: pytest.FixtureRequest) -> Operators:
    """Every layer that a cut keeps, and every layer of the full dumps where they are there."""
    model_file, dump_file, layer, whole = request.param
    with np.load(dump_file) as arrays:
        dump = dict(arrays)
    return Operators(open_model(model_file), dump, layer, np.arange(48) if whole else None)


def relative(ours: Floats, theirs: Floats) -> float:
    """Return the largest difference relative to its element."""
    return float((np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-30)).max())


def relative_to_rows(ours: Floats, theirs: Floats) -> float:
    """Return the largest difference relative to the largest element of its row: sums that cancel keep such errors."""
    return float((np.abs(ours - theirs) / np.abs(theirs).max(axis=-1, keepdims=True)).max())


@pytest.mark.parametrize(
    ("role", "input_name", "output_name"),
    [
        ("attn_q", "attn_norm-{}.MUL", "Qcur-{}.MUL_MAT"),
        ("attn_k", "attn_norm-{}.MUL", "Kcur-{}.MUL_MAT"),
        ("attn_v", "attn_norm-{}.MUL", "Vcur-{}.MUL_MAT"),
        ("ffn_gate", "ffn_norm-{}.MUL", "ffn_gate-{}.MUL_MAT"),
        ("ffn_up", "ffn_norm-{}.MUL", "ffn_up-{}.MUL_MAT"),
    ],
)
def test_projections(ops: Operators, role: str, input_name: str, output_name: str) -> None:
    """The integer sums are the same; bitnet.cpp divides and multiplies where we multiply once: two roundings apart."""
    ours, theirs = ops.linear(role, ops[input_name]), ops[output_name]
    assert (np.sign(ours) == np.sign(theirs)).all()  # zero sums too
    assert relative(ours, theirs) <= 1e-6


def test_output_and_down_projections(ops: Operators) -> None:
    sub_norms = ops.source.config.sub_norms
    output, down = ("output", "ffn_down-{}.MUL_MAT") if sub_norms else ("output", "ffn_out-{}.MUL_MAT")
    attended = ops["attn_sub_norm-{}.MUL"] if sub_norms else ops["attention"]
    gated = ops["ffn_sub_norm-{}.MUL"] if sub_norms else ops["gated"]
    assert relative(ops.linear("attn_output", attended), ops[output]) <= 1e-6
    assert relative(ops.linear("ffn_down", gated), ops[down]) <= 1e-6


def normed(ops: Operators, role: str, x: Floats) -> Floats:
    weight, out = ops.source.norm(role, ops.layer), np.empty_like(x)
    for row, ours in zip(np.ascontiguousarray(x), out, strict=True):
        rms_norm(row, weight, np.float32(ops.source.config.rms_norm_eps), np.float32(row.size), ours)
    return out


def test_norms(ops: Operators) -> None:
    assert relative(normed(ops, "ffn_norm", ops["ffn_inp-{}.ADD"]), ops["ffn_norm-{}.MUL"]) <= 1e-6
    if not ops.source.config.sub_norms:
        return
    assert relative(normed(ops, "attn_sub_norm", ops["attention"]), ops["attn_sub_norm-{}.MUL"]) <= 1e-6
    assert relative(normed(ops, "ffn_sub_norm", ops["gated"]), ops["ffn_sub_norm-{}.MUL"]) <= 1e-6


@pytest.mark.parametrize("name", ["Qcur", "Kcur"])
def test_rope(ops: Operators, name: str) -> None:
    """llama's heads hold pairs side by side, which the loader parts into halves."""
    config = ops.source.config
    half = config.head_dim // 2
    table = rope_table(inverse_frequencies(config.head_dim, config.rope_theta), 48, half)
    before, after = ops[f"{name}-{{}}.MUL_MAT"], ops[f"{name}-{{}}.ROPE"]
    heads = before.reshape(after.shape)
    if config.adjacent_pairs:
        heads, after = (np.concatenate([array[..., ::2], array[..., 1::2]], axis=-1) for array in (heads, after))
    unit = np.float32(2**-21)  # far below the magnitudes of these heads, so that the kernel's integers hold them
    sums = np.rint(heads.astype(np.float64) / unit).astype(np.int32)
    ours = np.empty(sums.shape, np.float32)
    for position, token, out in zip(ops.positions, sums, ours, strict=True):
        for head, rotated in zip(token, out, strict=True):
            rope(head, unit, table[position], rotated)
    assert relative_to_rows(ours, after) <= 2e-6


def test_softmax(ops: Operators) -> None:
    scores, theirs = ops["kq-{}.MUL_MAT"], ops["kq_soft_max_ext-{}.SOFT_MAX"]
    scale = np.float32(1 / np.sqrt(ops.source.config.head_dim))
    for index, position in enumerate(ops.positions):
        for head in range(scores.shape[0]):
            visible = np.ascontiguousarray(scores[head, index, : position + 1] * scale)
            ours = np.empty_like(visible)
            softmax(visible, ours)
            assert relative(ours, theirs[head, index, : position + 1]) <= 1e-6


def test_gates(ops: Operators) -> None:
    gate, up, theirs = ops["ffn_gate-{}.MUL_MAT"], ops["ffn_up-{}.MUL_MAT"], ops["gated"]
    kernel = gated_relu2 if ops.source.config.activation == "relu2" else gated_silu
    for gate_row, up_row, expected in zip(gate, up, theirs, strict=True):
        units = [np.float32(np.abs(row).max() / 2**23) for row in (gate_row, up_row)]
        sums = [np.rint(row.astype(np.float64) / unit) for row, unit in zip((gate_row, up_row), units, strict=True)]
        ours = np.empty_like(expected)
        kernel(np.concatenate(sums).astype(np.int32), *units, ours)
        assert relative_to_rows(ours, expected) <= 1e-6
