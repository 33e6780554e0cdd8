"""The border of memory safety: weights that kernels would read past are refused before any kernel runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitnet_numba.backends.cpu.backend import CPUBackend
from bitnet_numba.backends.cpu.forward.arrays import Weights
from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes
from bitnet_numba.backends.cpu.weights import check_weights, load_weights
from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.model.gguf_source import GGUFSource
from tests.tiny import toy_model

CONTEXT = 8
ODD = {"hidden_size": 160, "n_heads": 5, "n_kv_heads": 1, "head_dim": 20, "intermediate_size": 540}


@pytest.fixture(params=[TensorType.F16, TensorType.Q8_0], ids=lambda kind: kind.name)
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[PaddedSizes, Weights]:
    model = toy_model(**ODD, embedding_type=request.param)
    source = GGUFSource(model.gguf().write(tmp_path / "toy.gguf"))
    sizes = PaddedSizes.of(source.config)
    return sizes, load_weights(source, sizes, CONTEXT, with_int8_copy=True)


def of_other_dtype(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(np.float64)


def longer(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.zeros((*array.shape[:-1], array.shape[-1] + 1), array.dtype)


def with_more_rows(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.zeros((array.shape[0] + 1, *array.shape[1:]), array.dtype)


def with_gaps(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2]


@pytest.mark.parametrize("spoil", [of_other_dtype, longer, with_more_rows, with_gaps])
@pytest.mark.parametrize("name", Weights._fields)
def test_one_wrong_array_is_refused_by_name(loaded: tuple[PaddedSizes, Weights], name: str, spoil: Any) -> None:
    sizes, weights = loaded
    check_weights(weights, sizes, CONTEXT)
    array = getattr(weights, name)
    if array.size == 0 and spoil is not of_other_dtype:
        pytest.skip("an array without elements, of which no kernel reads any")
    with pytest.raises(ValueError, match=rf"^{name}(_scales)?: "):
        check_weights(weights._replace(**{name: spoil(array)}), sizes, CONTEXT)


@pytest.mark.parametrize("groups", [0, 3, 32])
def test_scales_that_do_not_divide_an_int8_matrix_are_refused(loaded: tuple[PaddedSizes, Weights], groups: int) -> None:
    sizes, weights = loaded
    rows = len(weights.embedding)
    int8 = weights._replace(
        embedding=np.zeros((rows, sizes.hidden), np.int8), embedding_scales=np.zeros((rows, groups), np.float32)
    )
    with pytest.raises(ValueError, match=r"^embedding_scales: "):
        check_weights(int8, sizes, CONTEXT)


def test_floats_with_scales_are_refused(loaded: tuple[PaddedSizes, Weights]) -> None:
    sizes, weights = loaded
    rows = len(weights.head)
    floats = weights._replace(head=np.zeros((rows, sizes.hidden), np.float32), head_scales=np.ones((rows, 8), "f4"))
    with pytest.raises(ValueError, match=r"^head_scales: "):
        check_weights(floats, sizes, CONTEXT)


def test_a_context_beyond_the_rope_table_is_refused(loaded: tuple[PaddedSizes, Weights]) -> None:
    sizes, weights = loaded
    with pytest.raises(ValueError, match=r"^rope: "):
        CPUBackend(sizes, weights, threads=1, kv_type="f16", max_context=CONTEXT + 1)
