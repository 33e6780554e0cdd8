"""The plan of a file: every size and offset before a byte of a weight is read, for the shape of the official model."""

from pathlib import Path
from typing import Any, NoReturn

from bitnet_numba.export.metadata import config_metadata
from bitnet_numba.export.quantization import stored_type
from bitnet_numba.export.tensors import by_position
from bitnet_numba.formats.gguf_header import read_header
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.gguf_writer import Plan, TensorSource, plan_gguf
from bitnet_numba.model.config import config_from_hf
from bitnet_numba.model.families import GGUF_NAMES
from bitnet_numba.model.source import expected_shapes
from tests.text import llama3

OFFICIAL_BYTES = 1_187_801_280
CONFIG_2B: dict[str, Any] = {  # config.json of microsoft/bitnet-b1.58-2B-4T
    "architectures": ["BitNetForCausalLM"],
    "hidden_act": "relu2",
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "max_position_embeddings": 4096,
    "num_attention_heads": 20,
    "num_hidden_layers": 30,
    "num_key_value_heads": 5,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}


def never() -> NoReturn:
    raise AssertionError("a plan reads no weights")


def plan(metadata: dict[str, Any]) -> Plan:
    shapes = expected_shapes(config_from_hf(CONFIG_2B, "2B"), tied=True)
    tensors = [
        TensorSource(
            GGUF_NAMES.name(role), stored_type(role, TensorType.I2_S, lambda: TensorType.F16), shapes[role], never
        )
        for role in sorted(shapes, key=by_position)
    ]
    return plan_gguf(Path("2b.gguf"), metadata, tensors)


def test_the_official_shape_has_the_official_tensors() -> None:
    planned = plan({})
    kinds = [source.type for source in planned.tensors]
    assert len(kinds) == 332
    assert [kinds.count(kind) for kind in (TensorType.F32, TensorType.F16, TensorType.I2_S)] == [121, 1, 210]


def test_the_weights_take_the_bytes_that_their_shapes_need() -> None:
    """Counted apart from the writer, by role."""
    planned = plan({})
    layer_weights = 2560 * (2560 + 640 + 640 + 2560) + 3 * 2560 * 6912
    ternary = 30 * layer_weights // 4 + 30 * 7 * 32
    norms = 4 * (30 * (3 * 2560 + 6912) + 2560)
    embedding = 2 * 128256 * 2560
    assert 30 * layer_weights == 2_084_044_800
    assert planned.file_size - len(planned.header) == ternary + norms + embedding == 1_179_449_920


def test_offsets_are_those_of_the_header() -> None:
    planned = plan({"general.architecture": "bitnet-b1.58", "general.file_type": 40})
    header = read_header(planned.path, memoryview(planned.header), planned.file_size)
    at = len(planned.header)
    for source, n_bytes in zip(planned.tensors, planned.sizes, strict=True):
        info = header.tensors[source.name]
        assert (info.offset, info.n_bytes, info.shape) == (at, n_bytes, source.shape)
        at += n_bytes  # all of them multiples of 32
    assert at == planned.file_size


def test_the_official_size_is_accounted_for_byte_by_byte() -> None:
    """All of the official file but two texts is known: its 24 keys, its tokenizer (Llama 3's) and its tensors."""
    vocabulary = {**llama3.metadata(), "tokenizer.ggml.padding_token_id": 128001}
    texts = {"general.name": "", "tokenizer.chat_template": ""}
    sizes = config_metadata(config_from_hf(CONFIG_2B, "2B"))
    official: dict[str, Any] = {
        "general.architecture": "bitnet-b1.58",
        **sizes,
        "general.file_type": 40,
        "general.quantization_version": 2,
        **vocabulary,
        "tokenizer.ggml.scores": [0.0] * 128256,
        **texts,
    }
    assert len(official) == 24
    planned = plan(official)
    infos = sum(24 + len(source.name) + 8 * len(source.shape) for source in planned.tensors)
    header = 24 + infos + sum(key_bytes(key, value) for key, value in official.items())
    assert len(planned.header) == -(-header // 32) * 32
    name_template_and_padding = OFFICIAL_BYTES - sum(planned.sizes) - header
    assert name_template_and_padding == 389  # two texts, and at most 31 zeros
    # What an export of the same model writes instead: no scores, which this kind of tokenizer does not use, but the
    # rule for splitting text and the end of a turn.
    ours = {key: value for key, value in official.items() if key != "tokenizer.ggml.scores"}
    ours |= {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.eot_token_id": 128009}
    assert len(plan(ours).header) == -(-(header - 513_069 + 47 + 43) // 32) * 32


def key_bytes(key: str, value: object) -> int:
    """Return what a key takes, from the words of the format: lengths and counts in eight bytes, types in four."""
    if isinstance(value, list):
        items = sum(8 + len(item.encode()) if isinstance(item, str) else 4 for item in value)
        return 8 + len(key) + 4 + 4 + 8 + items
    size = 8 + len(value.encode()) if isinstance(value, str) else 1 if isinstance(value, bool) else 4
    return 8 + len(key) + 4 + size
