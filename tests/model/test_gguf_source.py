"""Models in GGUF files: what is refused, by name."""

from pathlib import Path

import numpy as np
import pytest

from bitnet_numba.backends.cpu.padded_sizes import PaddedSizes
from bitnet_numba.backends.cpu.weights import load_weights
from bitnet_numba.errors import BitNetError
from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.model.gguf_source import GGUFSource
from tests.model.semantic_cases import BAD_GGUF, good_gguf
from tests.tiny import toy_model
from tests.tiny_files import replaced


def load(path: Path) -> None:
    """Read everything that a model file holds."""
    source = GGUFSource(path)
    load_weights(source, PaddedSizes.of(source.config), 8)


def test_takes_the_good_model(tmp_path: Path) -> None:
    load(good_gguf().write(tmp_path / "toy.gguf"))


@pytest.mark.parametrize("case", BAD_GGUF)
def test_refuses(case: str, tmp_path: Path) -> None:
    spoil, words = BAD_GGUF[case]
    model = good_gguf()
    spoil(model)
    path = model.write(tmp_path / "toy.gguf")
    with pytest.raises(BitNetError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert message.isprintable()
    assert len(message) < 500


def test_blocks_of_zeros_may_have_any_scale(tmp_path: Path) -> None:
    """llama.cpp's quantizer writes 0 there."""
    model = toy_model(hidden_size=256, n_heads=4, n_kv_heads=2)
    weights, scale = model.linears["attn_q", 0]
    weights[5] = 0
    contents = model.gguf(TensorType.TQ2_0)
    name = "blk.0.attn_q.weight"
    data = np.array(contents.tensors[name].read()).reshape(256, 66)
    data[5, 64:] = 0
    contents.tensors[name] = replaced(contents.tensors[name], data=data)
    matrix = GGUFSource(contents.write(tmp_path / "toy.gguf")).linear("attn_q", 0)
    assert matrix.scale == scale
    assert (matrix.unpacked() == weights).all()


def test_a_matrix_of_zeros_needs_no_scale(tmp_path: Path) -> None:
    model = toy_model(hidden_size=256, n_heads=4, n_kv_heads=2)
    model.linears["attn_q", 0][0][:] = 0
    matrix = GGUFSource(model.gguf(TensorType.TQ1_0).write(tmp_path / "toy.gguf")).linear("attn_q", 0)
    assert not matrix.unpacked().any()


def test_tells_what_it_holds(tmp_path: Path) -> None:
    contents = toy_model(head_type=TensorType.F32).gguf()
    contents.metadata["tokenizer.chat_template"] = "{{ messages }}"
    source = GGUFSource(contents.write(tmp_path / "toy.gguf"))
    assert source.tensor_types() == {"F16": 1, "F32": 10, "I2_S": 14}
    assert not source.tied
    assert source.chat_template == "{{ messages }}"
    assert source.tokenizer().encode("hello", add_bos=False)
    source.close()
