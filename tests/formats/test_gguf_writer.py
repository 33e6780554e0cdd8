"""Writing GGUF: the same bytes each time, readable by others, and nothing that the reader would refuse."""

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitnet_numba.errors import BitNetError, FormatError
from bitnet_numba.formats.gguf import TensorType, TypedValue, ValueType, open_gguf
from bitnet_numba.formats.gguf_writer import TensorSource, write_gguf
from bitnet_numba.formats.tensor_formats import FORMATS, tensor_bytes
from tests import gguf_cases as cases
from tests.gguf_builder import uint32

SYNTH_TINY = Path(__file__).parent.parent / "data" / "bitnetcpp" / "synth-tiny-i2_s.gguf"


def _source(name: str, tensor_type: int, shape: tuple[int, ...], data: bytes | NDArray[np.uint8]) -> TensorSource:
    return TensorSource(name, TensorType(tensor_type), shape, lambda: data)


NORM = _source("norm", TensorType.F32, (4,), cases.NORM.data)

INTEGERS = {
    ValueType.UINT8: (0, 2**8 - 1),
    ValueType.INT8: (-(2**7), 2**7 - 1),
    ValueType.UINT16: (0, 2**16 - 1),
    ValueType.INT16: (-(2**15), 2**15 - 1),
    ValueType.UINT32: (0, 2**32 - 1),
    ValueType.INT32: (-(2**31), 2**31 - 1),
    ValueType.UINT64: (0, 2**64 - 1),
    ValueType.INT64: (-(2**63), 2**63 - 1),
}
ITEMS: dict[ValueType, st.SearchStrategy[Any]] = {
    **{value_type: st.integers(*bounds) for value_type, bounds in INTEGERS.items()},
    ValueType.FLOAT32: st.floats(width=32, allow_nan=False),
    ValueType.FLOAT64: st.floats(allow_nan=False),
    ValueType.BOOL: st.booleans(),
    ValueType.STRING: st.text(max_size=20),
}


@st.composite
def typed_values(draw: st.DrawFn) -> TypedValue:
    value_type = draw(st.sampled_from(list(ITEMS)))
    return TypedValue(value_type, draw(st.one_of(ITEMS[value_type], st.lists(ITEMS[value_type], max_size=9))))


KEYS = st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=1, max_size=30)
METADATA = st.dictionaries(KEYS.filter(lambda key: not key.startswith("general.")), typed_values(), max_size=8)


@st.composite
def tensor_sources(draw: st.DrawFn) -> TensorSource:
    tensor_type = draw(st.sampled_from(list(FORMATS)))
    block = FORMATS[tensor_type].layout.block
    outer = draw(st.lists(st.integers(1, 3), max_size=3))
    shape = (*outer, block * draw(st.integers(1, 3)))
    n_bytes = tensor_bytes(tensor_type, shape)
    data = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, 256, n_bytes, np.uint8)
    name = draw(st.text("abcXYZ019._-", min_size=1, max_size=63))
    return _source(name, tensor_type, shape, data)


TENSORS = st.lists(tensor_sources(), max_size=5, unique_by=lambda source: source.name)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf_writer") / "model.gguf"


@given(metadata=METADATA, tensors=TENSORS, alignment=st.sampled_from([None, 8, 32, 256]))
def test_the_reader_reads_it_back(
    scratch: Path, metadata: dict[str, TypedValue], tensors: list[TensorSource], alignment: int | None
) -> None:
    if alignment is not None:
        metadata = metadata | {"general.alignment": uint32(alignment)}
    write_gguf(scratch, metadata, tensors)
    with open_gguf(scratch) as file:
        assert file.typed_metadata == metadata
        assert list(file.metadata) == list(metadata)
        assert file.alignment == (alignment or 32)
        assert [(t.name, t.type, t.shape) for t in file.tensors.values()] == [
            (source.name, source.type, source.shape) for source in tensors
        ]
        for source in tensors:
            assert file.tensors[source.name].offset % file.alignment == 0
            np.testing.assert_array_equal(file.data(source.name), source.read())


@given(metadata=METADATA, tensors=TENSORS)
def test_the_same_input_gives_the_same_bytes(
    scratch: Path, metadata: dict[str, TypedValue], tensors: list[TensorSource]
) -> None:
    write_gguf(scratch, metadata, tensors)
    first = scratch.read_bytes()
    write_gguf(scratch, dict(metadata), iter(tensors))
    assert scratch.read_bytes() == first


# NaN aside, the package reads everything that it can name: all types but I2_S, and arrays that are not empty.
@given(
    metadata=METADATA.map(lambda items: {key: typed for key, typed in items.items() if typed.value != []}),
    tensors=TENSORS.map(lambda sources: [source for source in sources if source.type is not TensorType.I2_S]),
)
def test_the_gguf_package_reads_it(scratch: Path, metadata: dict[str, TypedValue], tensors: list[TensorSource]) -> None:
    write_gguf(scratch, metadata, tensors)
    reader = gguf.GGUFReader(scratch)
    for key, typed in metadata.items():
        field = reader.fields[key]
        assert field.types[-1].value == typed.type
        assert field.contents() == typed.value
    assert [t.name for t in reader.tensors] == [source.name for source in tensors]
    for theirs, source in zip(reader.tensors, tensors, strict=True):
        assert theirs.tensor_type.value == source.type
        assert tuple(theirs.shape.tolist()) == source.shape[::-1]
        np.testing.assert_array_equal(theirs.data.reshape(-1).view(np.uint8), source.read())
    del reader


def test_writes_exactly_the_format(scratch: Path) -> None:
    """Against bytes that other code built."""
    sources = [_source(name, tensor.type, tensor.shape, tensor.data) for name, tensor in cases.TENSORS.items()]
    write_gguf(scratch, cases.METADATA, sources)
    assert scratch.read_bytes() == cases.GOOD


def test_writes_a_file_of_bitnet_cpp_again_byte_for_byte(scratch: Path) -> None:
    with open_gguf(SYNTH_TINY) as file:
        sources = [_source(info.name, info.type, info.shape, file.data(info.name)) for info in file.tensors.values()]
        write_gguf(scratch, file.typed_metadata, sources)
    assert scratch.read_bytes() == SYNTH_TINY.read_bytes()


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("text", TypedValue(ValueType.STRING, "text")),
        (True, TypedValue(ValueType.BOOL, True)),
        (7, TypedValue(ValueType.UINT32, 7)),
        (0.5, TypedValue(ValueType.FLOAT32, 0.5)),
        (["a", "b"], TypedValue(ValueType.STRING, ["a", "b"])),
        ([True, False], TypedValue(ValueType.BOOL, [True, False])),
        ([1, -3], TypedValue(ValueType.INT32, [1, -3])),
        ([0.5, 1], TypedValue(ValueType.FLOAT32, [0.5, 1.0])),
    ],
)
def test_plain_values_take_the_usual_type(scratch: Path, value: object, stored: TypedValue) -> None:
    write_gguf(scratch, {"k": value}, [])
    with open_gguf(scratch) as file:
        assert file.typed_metadata == {"k": stored}


def test_arrays_are_written_in_c_order(scratch: Path) -> None:
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_gguf(scratch, {}, [TensorSource("w", TensorType.F32, (4, 3), lambda: weights.T)])
    with open_gguf(scratch) as file:
        np.testing.assert_array_equal(file.data("w").view(np.float32).reshape(4, 3), weights.T)


def test_one_tensor_at_a_time_is_in_memory(scratch: Path) -> None:
    n_bytes = 4 * 2**20
    asked: list[str] = []

    def source(name: str) -> TensorSource:
        def read() -> bytes:
            asked.append(name)
            return bytes(n_bytes)

        return TensorSource(name, TensorType.F32, (n_bytes // 4,), read)

    tracemalloc.start()
    try:
        write_gguf(scratch, {}, [source(name) for name in "cab"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert asked == ["c", "a", "b"]
    assert peak < 2 * n_bytes


def _refused(metadata: dict[str, Any], *tensors: TensorSource) -> tuple[dict[str, Any], list[TensorSource]]:
    return metadata, list(tensors)


def _norm(name: str = "norm", shape: tuple[int, ...] = (4,), tensor_type: TensorType = TensorType.F32) -> TensorSource:
    return _source(name, tensor_type, shape, cases.NORM.data)


BAD_INPUT = {
    "a number out of its range": (_refused({"k": -1}), "key 'k' cannot be stored as UINT32"),
    "a float out of its range": (_refused({"k": 1e300}), "key 'k' cannot be stored as FLOAT32"),
    "text as a number": (_refused({"k": TypedValue(ValueType.INT8, "a")}), "key 'k' cannot be stored as INT8"),
    "a number as text": (_refused({"k": ["a", 1]}), "key 'k' cannot be stored as STRING: expected text"),
    "a number as bool": (_refused({"k": [True, 2]}), "key 'k' cannot be stored as BOOL: expected True or False"),
    "ARRAY as the type of items": (_refused({"k": TypedValue(ValueType.ARRAY, [1])}), "cannot be stored as ARRAY"),
    "an empty list without a type": (_refused({"k": []}), "key 'k': list has no usual type in GGUF; give a TypedValue"),
    "None": (_refused({"k": None}), "key 'k': NoneType has no usual type"),
    "a lone surrogate": (_refused({"k": "\ud800"}), "the value of key 'k' is not UTF-8"),
    "a lone surrogate in a key": (_refused({"\ud800": 1}), "key 0 is not UTF-8"),
    "a long key": (_refused({"k" * 257: 1}), "key 0 has 257 bytes"),
    "a long chat template": (_refused({"tokenizer.chat_template": "x" * 65537}), "has 65,537 bytes"),
    "an impossible alignment": (_refused({"general.alignment": 2**30}), "'general.alignment' is UINT32 1,073,741,824"),
    "alignment 0": (_refused({"general.alignment": 0}), "'general.alignment' is UINT32 0"),
    "a name that is a path": (_refused({}, _norm("../x")), "tensor name '../x' has characters"),
    "the same name twice": (_refused({}, _norm(), _norm()), "tensor 'norm' occurs twice"),
    "no dimensions": (_refused({}, _norm(shape=())), "tensor 'norm': 0 dimensions"),
    "a negative dimension": (_refused({}, _norm(shape=(-4, -1))), "tensor 'norm': -4 x -1 weights"),
    "a type that is not read": (
        _refused({}, _norm(tensor_type=TensorType.TL1)),
        "type TL1 has no known size; its order",
    ),
    "a row that is not whole blocks": (_refused({}, _norm(tensor_type=TensorType.Q8_0)), "a row of 4 weights is not"),
    "too few bytes": (_refused({}, NORM, _norm("w", (5,))), "tensor 'w': 16 bytes given, F32 of shape (5,) needs 20"),
    "too many bytes": (_refused({}, _norm("w", (3,))), "tensor 'w': 16 bytes given, F32 of shape (3,) needs 12"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_what_the_reader_would_refuse_is_not_written(tmp_path: Path, name: str) -> None:
    (metadata, tensors), words = BAD_INPUT[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(b"what was there before")
    with pytest.raises(FormatError) as caught:
        write_gguf(path, metadata, tensors)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"what was there before"


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target.gguf").write_bytes(b"")
    (tmp_path / "link.gguf").symlink_to(tmp_path / "target.gguf")
    with pytest.raises(BitNetError, match="symbolic link"):
        write_gguf(tmp_path / "link.gguf", {}, [NORM])
    assert (tmp_path / "target.gguf").read_bytes() == b""


def test_the_header_is_that_of_version_3(scratch: Path) -> None:
    write_gguf(scratch, {"a": 1, "b": "x"}, [NORM])
    assert scratch.read_bytes()[:24] == b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    assert scratch.stat().st_size % 32 == 0
