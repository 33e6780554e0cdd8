"""Reading GGUF: what it holds, and what is refused."""

import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_numba.errors import BitNetError, FormatError, UnsupportedError
from bitnet_numba.formats.gguf import TensorInfo, TensorType, ValueType, open_gguf
from bitnet_numba.formats.gguf_writer import TensorSource, write_gguf
from bitnet_numba.formats.tensor_formats import FORMATS, UPSTREAM_TWINS, tensor_bytes
from tests import gguf_cases as cases
from tests.gguf_builder import Tensor, gguf_bytes, string, text, uint32

SYNTH_TINY = Path(__file__).parent.parent / "data" / "bitnetcpp" / "synth-tiny-i2_s.gguf"
MIB = 2**20


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "model.gguf"


def test_reads_what_was_built(scratch: Path) -> None:
    scratch.write_bytes(cases.GOOD)
    with open_gguf(scratch) as file:
        assert (file.path, file.size, file.version, file.alignment) == (scratch, len(cases.GOOD), 3, 32)
        assert file.typed_metadata == cases.METADATA
        assert file.metadata == {key: typed.value for key, typed in cases.METADATA.items()}
        assert file.metadata["tokenizer.ggml.add_bos_token"] is True
        assert list(file.tensors) == list(cases.TENSORS)
        end = len(cases.GOOD) - 32
        assert file.tensors["norm"] == TensorInfo("norm", TensorType.F32, (4,), end, 16)
        assert file.tensors["blk.0.attn_q.weight"].shape == (2, 128)
        for name, tensor in cases.TENSORS.items():
            assert file.data(name).tobytes() == tensor.data


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 65536])
def test_reads_each_version_and_alignment(scratch: Path, version: int, alignment: int) -> None:
    metadata = cases.METADATA | {"general.alignment": uint32(alignment)}
    scratch.write_bytes(gguf_bytes(metadata, cases.TENSORS, version=version, alignment=alignment))
    with open_gguf(scratch) as file:
        assert (file.version, file.alignment) == (version, alignment)
        assert [file.data(name).tobytes() for name in file.tensors] == [t.data for t in cases.TENSORS.values()]


@pytest.mark.parametrize("alignment", [32, 64])
def test_reads_the_header_of_bitnet_rs(scratch: Path, alignment: int) -> None:
    """Where its data begin is known only after it is built once."""
    draft = gguf_bytes(cases.METADATA, {"n": cases.NORM}, extension=(alignment, 1), alignment=alignment)
    data_offset = len(draft) - alignment
    extension = alignment, data_offset
    scratch.write_bytes(gguf_bytes(cases.METADATA, {"n": cases.NORM}, extension=extension, alignment=alignment))
    with open_gguf(scratch) as file:
        assert file.alignment == alignment
        assert file.typed_metadata == cases.METADATA
        assert file.tensors["n"].offset == data_offset
        assert file.data("n").tobytes() == cases.NORM.data


def test_the_last_tensor_need_not_be_padded(scratch: Path) -> None:
    scratch.write_bytes(cases.GOOD[:-16])
    with open_gguf(scratch) as file:
        assert file.data("norm").tobytes() == cases.NORM.data


@pytest.mark.parametrize("n_padding", [0, 1, 19])
def test_a_vocabulary_alone_need_not_be_padded(scratch: Path, n_padding: int) -> None:
    """Its header of 77 bytes ends in the text."""
    contents = gguf_bytes({"k": string("x" * 32)}, {})
    scratch.write_bytes(contents[: 77 + n_padding])
    with open_gguf(scratch) as file:
        assert file.metadata == {"k": "x" * 32}
        assert file.tensors == {}


@pytest.mark.parametrize("tensor_type", list(FORMATS))
def test_reads_each_type(scratch: Path, tensor_type: TensorType) -> None:
    n_bytes = tensor_bytes(tensor_type, (3, 512))
    tensor = Tensor((3, 512), tensor_type, bytes(range(256)) * (n_bytes // 256) + bytes(n_bytes % 256))
    scratch.write_bytes(gguf_bytes(cases.LLAMA, {"w": tensor, "n": cases.NORM}))
    with open_gguf(scratch) as file:
        assert (file.tensors["w"].type, file.tensors["w"].n_bytes) == (tensor_type, n_bytes)
        assert file.data("w").tobytes() == tensor.data


def test_a_row_of_i2_s_may_begin_inside_a_block(scratch: Path) -> None:
    tensor = Tensor((4, 8672), TensorType.I2_S, bytes(8672 + 32))
    scratch.write_bytes(gguf_bytes(cases.METADATA, {"w": tensor}))
    with open_gguf(scratch) as file:
        assert file.tensors["w"].n_bytes == 8704


@pytest.mark.parametrize("statement", ["architecture", "file type"])
def test_statements_decide_where_both_meanings_of_36_fit(scratch: Path, statement: str) -> None:
    """128 weights take 64 bytes as I2_S and 72 as IQ4_NL_4_4: both 128 when padded to 128."""
    metadata = cases.METADATA if statement == "architecture" else cases.LLAMA | {"general.file_type": uint32(40)}
    tensor = Tensor((1, 128), TensorType.I2_S, bytes(64))
    aligned = metadata | {"general.alignment": uint32(128)}
    scratch.write_bytes(gguf_bytes(aligned, {"w": tensor, "n": cases.NORM}, alignment=128))
    with open_gguf(scratch) as file:
        assert file.tensors["w"].type is TensorType.I2_S


def test_types_have_the_numbers_of_the_gguf_package() -> None:
    ours = {t.name: t for t in TensorType}
    foreign = {name for name, _ in UPSTREAM_TWINS.values()}
    common = [t for t in gguf.GGMLQuantizationType if t.name in ours]
    assert len(common) >= 30
    for theirs in common:
        assert theirs.value == ours[theirs.name] or theirs.name in foreign


def test_reads_a_file_of_bitnet_cpp() -> None:
    with open_gguf(SYNTH_TINY) as file:
        types = [info.type for info in file.tensors.values()]
        assert [types.count(t) for t in (TensorType.F32, TensorType.F16, TensorType.I2_S)] == [17, 1, 28]
        assert file.metadata["general.architecture"] == "bitnet-b1.58"
        assert len(file.metadata["tokenizer.ggml.tokens"]) == 2048
        assert file.tensors["blk.0.ffn_down.weight"].shape == (256, 768)
        norm = file.data("output_norm.weight").view(np.float32)
        scale = file.data("blk.3.attn_v.weight")[-32:-28].view(np.float32)[0]
    assert norm.shape == (256,)
    assert 0.1 < np.abs(norm).mean() < 10
    assert 0 < scale < 10


def test_data_are_read_only_and_outlive_the_file(scratch: Path) -> None:
    scratch.write_bytes(cases.GOOD)
    with open_gguf(scratch) as file:
        norm = file.data("norm")
    assert not norm.flags.writeable
    assert norm.tobytes() == cases.NORM.data
    with pytest.raises(ValueError, match="read after close"):
        file.data("norm")


def test_refuses_a_tensor_that_is_not_there(scratch: Path) -> None:
    scratch.write_bytes(cases.GOOD)
    with open_gguf(scratch) as file, pytest.raises(FormatError, match=r"has no tensor 'norm\.weight'"):
        file.data("norm.weight")


@pytest.mark.parametrize("name", cases.BAD_FILES)
def test_refuses_a_bad_file(scratch: Path, name: str) -> None:
    """A BitNetError that names the place, within 64 MiB."""
    contents, words = cases.BAD_FILES[name]
    scratch.write_bytes(contents)
    tracemalloc.start()
    try:
        with pytest.raises(BitNetError) as caught:
            open_gguf(scratch)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert message.startswith(f"{scratch}: ")
    assert words in message
    assert "\n" not in message
    assert len(message) < 1000
    assert type(caught.value) in (FormatError, UnsupportedError)
    assert peak < 64 * MIB


def test_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.gguf"):
        with pytest.raises(BitNetError, match=path.name):
            open_gguf(path)


def test_refuses_a_header_over_64_mib(scratch: Path) -> None:
    """Strings within their own limit; the file is sparse."""
    with scratch.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 5))
        for key in "abcde":
            file.write(text(key) + struct.pack("<IQ", ValueType.STRING, 2**24))
            file.seek(2**24, 1)
        file.truncate()
    with pytest.raises(FormatError, match=r"key 'd' needs 16,777,216 bytes, a header of at most 67,108,864 bytes has"):
        open_gguf(scratch)
    scratch.unlink()


def test_refuses_an_array_item_over_16_mib(scratch: Path) -> None:
    with scratch.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k"))
        file.write(struct.pack("<IIQQ", ValueType.ARRAY, ValueType.STRING, 1, 2**24 + 1))
        file.truncate(2**24 + 100)
    with pytest.raises(FormatError, match="item 0 of key 'k' has over 16,777,216 bytes"):
        open_gguf(scratch)
    scratch.unlink()


# A change of a valid file: at a byte, this many bytes are replaced by others.
EXTREMES = [struct.pack("<Q", n) for n in (0, 1, 2**31, 2**32, 2**40, 2**63, 2**64 - 96, 2**64 - 1)]
CHANGES = st.lists(
    st.tuples(
        st.integers(0, len(cases.GOOD)),
        st.integers(0, 16),
        st.one_of(st.binary(max_size=16), st.sampled_from(EXTREMES), st.sampled_from([bytes([t]) for t in range(48)])),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300)
@given(changes=CHANGES, keep_size=st.booleans())
def test_a_changed_file_opens_or_is_refused(
    scratch: Path, changes: list[tuple[int, int, bytes]], keep_size: bool
) -> None:
    contents = cases.GOOD
    for at, n_bytes, others in changes:
        end = at + (len(others) if keep_size else n_bytes)
        contents = contents[:at] + others + contents[end:]
    scratch.write_bytes(contents)
    try:
        file = open_gguf(scratch)
    except BitNetError:
        return
    with file:
        for name, info in file.tensors.items():
            assert 0 < info.offset <= info.offset + info.n_bytes <= len(contents)
            assert file.data(name).size == info.n_bytes


@given(
    words=st.lists(st.text(max_size=20), max_size=20),
    numbers=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20),
    scale=st.floats(width=32, allow_nan=False),
    flags=st.lists(st.booleans(), max_size=20),
    rows=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_reads_what_the_gguf_package_writes(
    scratch: Path, words: list[str], numbers: list[int], scale: float, flags: list[bool], rows: int, seed: int
) -> None:
    weights = np.random.default_rng(seed).standard_normal((rows, 256)).astype(np.float32)
    packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.TQ2_0)
    writer = gguf.GGUFWriter(scratch, "llama")
    # The package writes no empty arrays, and takes the type of an array from its first item.
    expected: dict[str, Any] = {"a.words": ["", *words], "a.flags": [False, *flags]}
    for key, items in expected.items():
        writer.add_array(key, items)
    writer.add_key_value("a.numbers", [0, *numbers], gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT64)
    writer.add_float32("a.scale", scale)
    writer.add_tensor("w", weights)
    writer.add_tensor("half", weights.astype(np.float16))
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.TQ2_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_gguf(scratch) as file:
        expected |= {"general.architecture": "llama", "a.numbers": [0, *numbers], "a.scale": scale}
        assert file.metadata == expected
        assert file.typed_metadata["a.numbers"].type is ValueType.INT64
        assert {info.name: (info.type, info.shape) for info in file.tensors.values()} == {
            "w": (TensorType.F32, (rows, 256)),
            "half": (TensorType.F16, (rows, 256)),
            "packed": (TensorType.TQ2_0, (rows, 256)),
        }
        np.testing.assert_array_equal(file.data("w").view(np.float32).reshape(rows, 256), weights)
        np.testing.assert_array_equal(file.data("packed").reshape(packed.shape), packed)


def test_parses_a_vocabulary_of_128_256_words_in_little_memory(scratch: Path) -> None:
    """A Llama-3 vocabulary's counts; made-up words of 3 to 12 characters."""
    words = [f"Ġ{i:x}{'é' * (i % 7)}" for i in range(128_256)]
    merges = [f"{i:x} {'ab' * (i % 4)}" for i in range(280_147)]
    metadata = {
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.scores": [i / 2 for i in range(128_256)],
        "tokenizer.ggml.token_type": [1 + 2 * (i >= 128_000) for i in range(128_256)],
        "tokenizer.ggml.merges": merges,
    }
    tensor = TensorSource("norm", TensorType.F32, (4,), lambda: cases.NORM.data)
    write_gguf(scratch, metadata, [tensor])
    tracemalloc.start()
    try:
        file = open_gguf(scratch)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with file:
        assert file.metadata == metadata
        assert file.data("norm").tobytes() == cases.NORM.data
    assert peak - held < 64 * MIB
    scratch.unlink()


def test_limits_are_inclusive(scratch: Path) -> None:
    metadata = {"k" * 256: uint32(1), "tokenizer.chat_template": string("x" * 65536)}
    scratch.write_bytes(gguf_bytes(metadata, {"n" * 63: replace(cases.NORM, shape=(1, 1, 1, 4))}))
    with open_gguf(scratch) as file:
        assert file.typed_metadata == metadata
        assert file.tensors["n" * 63].shape == (1, 1, 1, 4)
