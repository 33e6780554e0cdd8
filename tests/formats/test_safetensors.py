"""Safetensors: the same arrays as the reference reader, and one clear error for each lie."""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bitnet_numba.errors import BitNetError, FormatError, UnsupportedError
from bitnet_numba.formats.safetensors import Checkpoint, TensorEntry, open_checkpoint, read_header
from tests.safetensors_cases import BAD_DIRECTORIES, BAD_FILES, GOOD, GOOD_SHARDS, safetensors_bytes

DTYPES = ["?", "u1", "i1", "<u2", "<i2", "<f2", "<u4", "<i4", "<f4", "<u8", "<i8", "<f8"]
EDITS = b'0123456789{}[]",:-.eEUFB ab\\n\xff'


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def expect_refusal(action: Callable[[], object], words: str, name: str) -> None:
    """Demand one line that holds the words and the file's name, for little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(BitNetError) as caught:
            action()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert words in message
    assert name in message
    assert "\n" not in message
    assert len(message) < 1000
    assert peak < 64 << 20


@pytest.mark.parametrize("case", BAD_FILES)
def test_refuses_a_bad_file(case: str, tmp_path: Path) -> None:
    content, words = BAD_FILES[case]
    file = write(tmp_path, {"model.safetensors": content}) / "model.safetensors"
    expect_refusal(lambda: open_checkpoint(tmp_path), words, str(file))


@pytest.mark.parametrize("case", BAD_DIRECTORIES)
def test_refuses_a_bad_directory(case: str, tmp_path: Path) -> None:
    files, words = BAD_DIRECTORIES[case]
    expect_refusal(lambda: open_checkpoint(write(tmp_path, files)), words, str(tmp_path))


def test_refuses_what_is_not_there(tmp_path: Path) -> None:
    expect_refusal(lambda: open_checkpoint(tmp_path / "none"), "no such directory", str(tmp_path / "none"))
    expect_refusal(lambda: Checkpoint(tmp_path, [tmp_path / "none"]), "no such file", str(tmp_path / "none"))


def test_refuses_a_named_pipe_without_waiting_for_it(tmp_path: Path) -> None:
    pipe = tmp_path / "model.safetensors"
    os.mkfifo(pipe)
    expect_refusal(lambda: Checkpoint(tmp_path, [pipe]), "not a regular file", str(pipe))


def test_names_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    write(tmp_path, {"model.safetensors": GOOD})
    monkeypatch.setattr(os, "open", refuse)
    expect_refusal(lambda: open_checkpoint(tmp_path), "Permission denied", str(tmp_path / "model.safetensors"))


@given(
    st.dictionaries(
        st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=9),
        hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
        max_size=4,
    ),
)
def test_reads_what_the_reference_writes(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "reference.safetensors"
    file.write_bytes(safetensors.numpy.save(arrays, {"format": "np"}))
    with open_checkpoint(file) as checkpoint:
        assert checkpoint.tensors.keys() == arrays.keys()
        for name, array in arrays.items():
            read = checkpoint.raw(name)
            assert (read.dtype, read.shape) == (array.dtype, array.shape)
            assert read.tobytes() == array.tobytes()
            assert not read.flags.writeable


@st.composite
def mutated_files(draw: st.DrawFn) -> bytes:
    """A good file with a few edits, most of them in a header whose length is then made true again."""
    content = bytearray(GOOD)
    length_is_true = draw(st.booleans())
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(8 if length_is_true else 0, len(content) - 1))
        removed = draw(st.integers(0, 2))
        content[position : position + removed] = draw(st.sampled_from([b"", *(bytes([c]) for c in EDITS)]))
    if length_is_true:
        content[:8] = max(content.rfind(b"}}") + 2 - 8, 0).to_bytes(8, "little")
    return bytes(content)


def entries_or_none(content: bytes) -> list[TensorEntry] | None:
    """Read a header; None for a refusal, and anything but a BitNetError is a failure of the test."""
    try:
        return read_header(np.frombuffer(content, np.uint8), Path("mutated"))
    except BitNetError:
        return None


@given(mutated_files())
def test_what_it_accepts_the_reference_accepts_too(content: bytes) -> None:
    entries = entries_or_none(content)
    if entries is None:
        return
    reference = dict(safetensors.deserialize(content))
    assert {entry.name for entry in entries} == reference.keys()
    for entry in entries:
        told = reference[entry.name]
        assert (entry.dtype, list(entry.shape)) == (told["dtype"], list(told["shape"]))
        assert content[entry.offset : entry.offset + entry.n_bytes] == bytes(told["data"])


def test_widens_floats_exactly(tmp_path: Path) -> None:
    bits = np.arange(1 << 16, dtype="<u2")
    halves = bits.view("<f2")
    singles = np.array([[1.5, -0.0], [np.inf, 1e-45]], "<f4")
    content = safetensors_bytes({"bf16": ("BF16", bits), "f16": ("F16", halves), "f32": ("F32", singles)})
    with open_checkpoint(write(tmp_path, {"model.safetensors": content})) as checkpoint:
        np.testing.assert_array_equal(checkpoint.raw("bf16"), bits)
        wide = checkpoint.float32("bf16").view(np.uint32)
        np.testing.assert_array_equal(wide >> 16, bits)
        np.testing.assert_array_equal(wide & 0xFFFF, 0)
        np.testing.assert_array_equal(checkpoint.float32("f16"), halves.astype(np.float32))
        np.testing.assert_array_equal(checkpoint.float32("f32").view(np.uint32), singles.view(np.uint32))
        for name in checkpoint.tensors:
            own = checkpoint.float32(name)
            assert own.dtype == np.float32
            assert own.flags.writeable


def test_reads_tensors_that_are_not_aligned(tmp_path: Path) -> None:
    values = np.array([1.5, -2.5], "<f4")
    content = safetensors_bytes({"a": ("U8", np.zeros(1, "u1")), "b": ("F32", values)})
    with open_checkpoint(write(tmp_path, {"model.safetensors": content})) as checkpoint:
        np.testing.assert_array_equal(checkpoint.raw("b"), values)
        assert checkpoint.float32("b").flags.aligned


def test_reads_every_shard_of_an_index(tmp_path: Path) -> None:
    with open_checkpoint(write(tmp_path, GOOD_SHARDS)) as checkpoint:
        assert checkpoint.path == tmp_path
        assert {name: entry.file.name for name, entry in checkpoint.tensors.items()} == {
            "a": "model-1.safetensors",
            "b": "model-2.safetensors",
        }
        np.testing.assert_array_equal(checkpoint.raw("a"), np.arange(4, dtype=np.float32))
        np.testing.assert_array_equal(checkpoint.raw("b"), np.arange(12, dtype=np.uint8))


def test_prefers_the_single_file_to_an_index(tmp_path: Path) -> None:
    with open_checkpoint(write(tmp_path, GOOD_SHARDS | {"model.safetensors": GOOD})) as checkpoint:
        assert checkpoint.tensors["b"].shape == (2, 3)


def test_follows_links_as_download_caches_lay_them(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(GOOD)
    (tmp_path / "model.safetensors").symlink_to("blob")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.tensors.keys() == {"a", "b"}


def test_says_what_it_cannot_give(tmp_path: Path) -> None:
    with open_checkpoint(write(tmp_path, GOOD_SHARDS)) as checkpoint:
        with pytest.raises(FormatError, match="tensor 'c' is missing"):
            checkpoint.raw("c")
        with pytest.raises(FormatError, match="tensor 'c' is missing"):
            checkpoint.float32("c")
        with pytest.raises(UnsupportedError, match="tensor 'b' holds U8"):
            checkpoint.float32("b")


def test_arrays_outlive_the_checkpoint(tmp_path: Path) -> None:
    with open_checkpoint(write(tmp_path, GOOD_SHARDS)) as checkpoint:
        array = checkpoint.raw("a")
    np.testing.assert_array_equal(array, np.arange(4, dtype=np.float32))
    with pytest.raises(ValueError, match="closed"):
        checkpoint.raw("a")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_some_rows_are_those_of_the_whole(dtype: str, tmp_path: Path) -> None:
    stored = np.arange(24, dtype={"BF16": np.uint16, "F16": np.float16, "F32": np.float32}[dtype]).reshape(6, 4)
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes({"matrix": (dtype, stored)}))
    with open_checkpoint(tmp_path) as checkpoint:
        whole = checkpoint.float32("matrix")
        checkpoint.forget_pages()
        np.testing.assert_array_equal(checkpoint.float32("matrix", slice(2, 5)), whole[2:5])
        assert [file.name for file in checkpoint.files] == ["model.safetensors"]
