"""Each operator of the NumPy backend on inputs that bitnet.cpp computed, against what it made of them; edge cases."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bitnet_numba.backends.numpy import operators
from bitnet_numba.model.config import RopeScaling
from bitnet_numba.model.open import open_source
from bitnet_numba.model.rope_scaling import rope_frequencies
from bitnet_numba.model.source import ModelSource
from tests.backends.cpu.kernels import twins
from tests.cut_references import OPERATORS, POSITIONS
from tests.generate.running import FIXTURES, needs_fixtures
from tests.reference_logits import DATA
from tests.tiny import toy_model

Floats = npt.NDArray[np.float32]

# How bitnet.cpp's graphs name an operator's output; llama's graph has other names, and no sub-norms.
OF_BITNET = {"attention": "kqv_out-{}.CONT", "output": "attn_o_out-{}.MUL_MAT", "gated": "ffn_out-{}.MUL"}
OF_LLAMA = {"attention": "kqv_merged_cont-{}.CONT", "output": "kqv_out-{}.MUL_MAT", "gated": "ffn_gate_par-{}.MUL"}


class Layer:
    """A layer's weights, and the outputs of its operators in bitnet.cpp."""

    def __init__(self, source: ModelSource, dump: Mapping[str, Floats], layer: int, positions: list[int]) -> None:
        self.source, self.config, self.layer, self.positions = source, source.config, layer, positions
        self._dump, self._names = dump, OF_BITNET if source.config.sub_norms else OF_LLAMA

    def __getitem__(self, name: str) -> Floats:
        return self._dump["p0." + self._names.get(name, name).format(self.layer)]

    def linear(self, role: str, x: Floats) -> npt.NDArray[np.float64]:
        matrix = self.source.linear(role, self.layer)
        scales, q = operators.quantize_absmax(x)
        return operators.scale(operators.ternary_product(matrix.unpacked(), q), matrix.scale / scales[:, None])

    def norm(self, role: str, x: Floats) -> npt.NDArray[np.float64]:
        return operators.rms_norm(x, self.source.norm(role, self.layer), self.config.rms_norm_eps, x.shape[1])


def layers(folder: Path, suffix: str, *, whole: bool) -> Iterator[tuple[Path, Path, int, bool]]:
    for name, kept in OPERATORS.items():
        for layer in range(4) if whole else kept:
            yield folder / f"{name}-i2_s.gguf", folder / f"{name}-{suffix}.npz", layer, whole


@pytest.fixture(
    params=[
        *layers(DATA / "bitnetcpp", "cut", whole=False),
        *(pytest.param(case, marks=needs_fixtures) for case in layers(FIXTURES / "bitnetcpp", "ref", whole=True)),
    ],
    ids=lambda case: f"{case[0].stem}-{case[2]}{'-whole' if case[3] else ''}",
)
def layer(request: pytest.FixtureRequest) -> Layer:
    model, dump_file, number, whole = request.param
    with np.load(dump_file) as dump:
        return Layer(open_source(model), dict(dump), number, list(range(48)) if whole else POSITIONS.tolist())


def relative(ours: npt.NDArray[np.float64], theirs: Floats) -> float:
    """Return the largest difference relative to its element."""
    return float((np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-30)).max())


def test_linear_layers(layer: Layer) -> None:
    sub_norms = layer.config.sub_norms
    attention = layer["attn_sub_norm-{}.MUL" if sub_norms else "attention"]
    gated = layer["ffn_sub_norm-{}.MUL" if sub_norms else "gated"]
    down = layer["ffn_down-{}.MUL_MAT" if sub_norms else "ffn_out-{}.MUL_MAT"]
    for role, x, expected in (
        ("attn_q", layer["attn_norm-{}.MUL"], layer["Qcur-{}.MUL_MAT"]),
        ("attn_k", layer["attn_norm-{}.MUL"], layer["Kcur-{}.MUL_MAT"]),
        ("attn_v", layer["attn_norm-{}.MUL"], layer["Vcur-{}.MUL_MAT"]),
        ("attn_output", attention, layer["output"]),
        ("ffn_gate", layer["ffn_norm-{}.MUL"], layer["ffn_gate-{}.MUL_MAT"]),
        ("ffn_up", layer["ffn_norm-{}.MUL"], layer["ffn_up-{}.MUL_MAT"]),
        ("ffn_down", gated, down),
    ):
        ours = layer.linear(role, x)
        assert (np.sign(ours) == np.sign(expected)).all()  # zero sums too
        assert relative(ours, expected) <= 1e-6


def test_norms(layer: Layer) -> None:
    assert relative(layer.norm("ffn_norm", layer["ffn_inp-{}.ADD"]), layer["ffn_norm-{}.MUL"]) <= 1e-6
    if layer.config.sub_norms:
        assert relative(layer.norm("attn_sub_norm", layer["attention"]), layer["attn_sub_norm-{}.MUL"]) <= 1e-6
        assert relative(layer.norm("ffn_sub_norm", layer["gated"]), layer["ffn_sub_norm-{}.MUL"]) <= 1e-6


@pytest.mark.parametrize("name", ["Qcur", "Kcur"])
def test_rope(layer: Layer, name: str) -> None:
    half = layer.config.head_dim // 2
    after = layer[f"{name}-{{}}.ROPE"]
    before = layer[f"{name}-{{}}.MUL_MAT"].reshape(after.shape)
    if layer.config.adjacent_pairs:
        before, after = (np.concatenate([array[..., ::2], array[..., 1::2]], axis=-1) for array in (before, after))
    table = operators.rope_table(rope_frequencies(layer.source), layer.positions, half)[:, None]
    difference = np.abs(operators.rope(before, table) - after) / np.abs(after).max(axis=-1, keepdims=True)
    assert difference.max() <= 2e-6


def test_softmax(layer: Layer) -> None:
    scores, theirs = layer["kq-{}.MUL_MAT"], layer["kq_soft_max_ext-{}.SOFT_MAX"]
    for index, position in enumerate(layer.positions):
        visible = scores[:, index, : position + 1] * np.float32(1 / math.sqrt(layer.config.head_dim))
        assert relative(operators.softmax(visible), theirs[:, index, : position + 1]) <= 1e-6


def test_gates(layer: Layer) -> None:
    gated = operators.gated_relu2 if layer.config.activation == "relu2" else operators.gated_silu
    assert relative(gated(layer["ffn_gate-{}.MUL_MAT"], layer["ffn_up-{}.MUL_MAT"]), layer["gated"]) <= 2e-6


# ---- what no dump shows ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("columns", [1, 127, 1 << 17, (1 << 17) + 1])
def test_ternary_products_are_exact(columns: int) -> None:
    rng = np.random.default_rng(columns)
    q = np.stack([rng.integers(-128, 128, columns), np.full(columns, -128)]).astype(np.int8)
    weights = np.stack([rng.integers(-1, 2, columns), np.ones(columns), -np.ones(columns)]).astype(np.int8)
    expected = q.astype(np.int64) @ weights.astype(np.int64).T
    np.testing.assert_array_equal(operators.ternary_product(weights, q), expected)
    np.testing.assert_array_equal(operators.ternary_product(weights.astype(np.float32), q), expected)


@pytest.mark.parametrize(("kv_type", "dtype"), [("f16", np.uint16), ("f32", np.float32), ("int8", np.int8)])
def test_kv_is_rounded_as_caches_store_it(kv_type: str, dtype: npt.DTypeLike) -> None:
    rows = np.random.default_rng(1).standard_normal((20, 64)).astype(np.float32)
    rows[3], rows[4] = 0, 1e-31
    np.testing.assert_array_equal(operators.round_kv(rows, kv_type), twins.store_rows(rows, dtype)[2])


def test_exponentials() -> None:
    x = np.concatenate([-np.logspace(-30, 1.8, 5000), np.linspace(-63.999, 0, 5001)])
    expected = np.array([math.exp(number) for number in x])
    assert (np.abs(operators.exp(x) / expected - 1)).max() <= 4e-16
    assert operators.exp(np.array([0.0, -64, -65, -1e30, -np.inf])).tolist() == [1, 0, 0, 0, 0]


@pytest.mark.parametrize("scaling", [None, RopeScaling(4.0), RopeScaling(8.0, (1.0, 4.0, 16))])
def test_rope_frequencies_come_from_the_scaling_or_from_factors(scaling: RopeScaling | None) -> None:
    toy = toy_model(head_dim=128, rope_scaling=scaling)
    expected = twins.inverse_frequencies(128, toy.config.rope_theta)
    if scaling is not None and scaling.bands is None:
        expected = expected / 4
    elif scaling is not None and scaling.bands is not None:
        expected = twins.stretch_llama3(expected, scaling.factor, *scaling.bands)
    np.testing.assert_allclose(rope_frequencies(toy), expected, rtol=1e-7)
