"""Good models with a few bytes or values changed: each loads, or is refused with a BitNetError, and nothing else."""

import contextlib
import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes
from bitnet_numba.backends.cpu.weights import load_weights
from bitnet_numba.errors import BitNetError
from bitnet_numba.model.open import open_source
from tests.tiny import toy_model

SIZES = {"n_layers": 1, "hidden_size": 32, "intermediate_size": 32, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 264}

NUMBERS = st.integers(-(2**65), 2**65) | st.floats() | st.just(10**400)
VALUES = st.recursive(
    NUMBERS | st.none() | st.booleans() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)
ROPE_KEYS = ("rope_type", "type", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def load(path: Path) -> None:
    """Do all that loading does before the model runs."""
    source = open_source(path)
    source.tokenizer()
    load_weights(source, PaddedSizes.of(source.config), min(source.config.max_seq_len, 8))
    source.close()


@functools.cache
def good_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return toy_model(**SIZES).gguf().write(Path(folder) / "toy.gguf").read_bytes()


@functools.cache
def good_directory() -> Any:
    return toy_model("llama", **SIZES).checkpoint()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_bytes_of_a_gguf_file(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[float, int]]) -> None:
    data = bytearray(good_file())
    for place, byte in changes:
        data[int(place * len(data))] = byte
    path = tmp_path_factory.mktemp("fuzz") / "toy.gguf"
    path.write_bytes(data)
    with contextlib.suppress(BitNetError):
        load(path)


@settings(max_examples=60)
@given(changes=st.dictionaries(st.sampled_from(sorted(good_directory().config)), VALUES, min_size=1, max_size=2))
def test_values_of_a_configuration(tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]) -> None:
    path = good_directory().write(tmp_path_factory.mktemp("fuzz") / "toy")
    (path / "config.json").write_text(json.dumps(good_directory().config | changes), encoding="utf-8")
    with contextlib.suppress(BitNetError):
        load(path)


@settings(max_examples=60)
@given(
    scaling=st.dictionaries(st.sampled_from(ROPE_KEYS), VALUES, max_size=3),
    kind=st.sampled_from(["llama3", "linear", "default"]),
)
def test_values_of_a_rope_scaling(tmp_path_factory: pytest.TempPathFactory, scaling: dict[str, Any], kind: str) -> None:
    bands = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    path = good_directory().write(tmp_path_factory.mktemp("fuzz") / "toy")
    changed = good_directory().config | {"rope_scaling": {"rope_type": kind} | bands | scaling}
    (path / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    with contextlib.suppress(BitNetError):
        load(path)
