"""Padded sizes, and the padded indices of the elements of heads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes, round_up
from tests.tiny import toy_model


@given(st.integers(0, 10**6), st.integers(1, 1000))
def test_round_up(n: int, multiple: int) -> None:
    padded = round_up(n, multiple)
    assert padded % multiple == 0
    assert n <= padded < n + multiple


@given(pairs=st.integers(1, 70), n_kv_heads=st.integers(1, 4), group=st.integers(1, 4), hidden_size=st.integers(1, 600))
def test_sizes_suit_the_kernels(pairs: int, n_kv_heads: int, group: int, hidden_size: int) -> None:
    heads = {"n_heads": n_kv_heads * group, "n_kv_heads": n_kv_heads, "head_dim": 2 * pairs}
    model = toy_model(n_layers=1, hidden_size=hidden_size, intermediate_size=3, **heads)
    sizes = PaddedSizes.of(model.config)
    assert sizes.hidden % 128 == sizes.ffn % 128 == sizes.attn % 128 == 0
    assert sizes.qkv_rows % 32 == 0
    assert sizes.half % 16 == 0
    assert sizes.half >= pairs
    assert sizes.attn >= model.config.n_heads * sizes.head_dim


@pytest.mark.parametrize("adjacent", [False, True])
def test_a_pair_lies_half_a_padded_head_apart(adjacent: bool) -> None:
    config = toy_model(n_heads=3, n_kv_heads=3, head_dim=20).config
    sizes = PaddedSizes.of(config)
    indices = sizes.head_indices(3, adjacent=adjacent).reshape(3, 20)
    first, second = (indices[:, ::2], indices[:, 1::2]) if adjacent else (indices[:, :10], indices[:, 10:])
    assert (second - first == sizes.half).all()
    assert (first == 32 * np.arange(3)[:, None] + np.arange(10)).all()
