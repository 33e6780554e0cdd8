"""Logits that another engine dumped: an .npz file with ``tokens`` and ``logits``, read as a stranger's file."""

import os
import struct
import zipfile
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import BitNetError, EvidenceUnreadableError
from bitnet_numba.files import exists, open_regular

MAX_TOKENS: Final = 1 << 20
MAX_LOGITS_BYTES: Final = 4 << 30
MAX_DIRECTORY_BYTES: Final = 64 << 10
_REMEDY: Final = "write tokens as int[T] and logits as float[T, vocab_size] with numpy.savez"
_END_OF_DIRECTORY: Final = struct.Struct("<4s8xL6x")  # signature, bytes of the directory; APPNOTE.TXT 4.3.16
_ZIP64_LOCATOR: Final = struct.Struct("<4s16x")


def read_reference(path: Path, vocab_size: int) -> tuple[list[int], npt.NDArray[np.floating[Any]]]:
    """Return the tokens and their logits, float[T, vocab_size].

    Sizes and types are checked before the arrays are read.

    Raises
    ------
    EvidenceUnreadableError
        If the file is none, or its arrays are not of this form, too large, or not finite.
    """
    if not exists(path):
        raise EvidenceUnreadableError(f"{path}: no such file; check the path")
    try:
        opened = open_regular(path)
    except BitNetError as error:
        raise EvidenceUnreadableError(str(error)) from error
    with opened as file:
        try:
            _check_directory(file)
            with zipfile.ZipFile(file) as arrays:
                tokens = _array(arrays, path, "tokens", "iu", (None,), 8 * MAX_TOKENS)
                logits = _array(arrays, path, "logits", "f", (len(tokens), vocab_size), MAX_LOGITS_BYTES)
        except BitNetError:
            raise
        except Exception as error:  # anything can come out of zipfile and numpy with a damaged file
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise EvidenceUnreadableError(f"{path}: cannot be read ({reason}); {_REMEDY}") from error
    if not tokens.size or tokens.min() < 0 or tokens.max() >= vocab_size:
        raise EvidenceUnreadableError(f"{path}: tokens are not ids from 0 to {vocab_size - 1:,}; {_REMEDY}")
    largest = np.finfo(np.float32).max  # squares of what is within are finite in float64
    if not (logits.min() >= -largest and logits.max() <= largest):
        raise EvidenceUnreadableError(f"{path}: a logit is infinite, NaN or above {largest:.2g}; dump them again")
    return [int(token) for token in tokens], logits


def _check_directory(file: IO[bytes]) -> None:
    """Refuse an archive whose list of members, which zipfile reads whole, is larger than a few arrays need."""
    size = file.seek(0, os.SEEK_END)
    tail = _ZIP64_LOCATOR.size + _END_OF_DIRECTORY.size
    file.seek(max(0, size - tail))
    end = file.read(tail).rjust(tail, b"\0")
    (locator,) = _ZIP64_LOCATOR.unpack_from(end)
    signature, directory_bytes = _END_OF_DIRECTORY.unpack_from(end, _ZIP64_LOCATOR.size)
    if signature != b"PK\5\6":
        raise ValueError("it does not end as a zip archive without a comment does")
    if locator == b"PK\6\7" or directory_bytes > MAX_DIRECTORY_BYTES:
        raise ValueError("it lists more members than two arrays are")


def _array(
    arrays: zipfile.ZipFile, path: Path, name: str, kinds: str, shape: tuple[int | None, ...], max_bytes: int
) -> npt.NDArray[Any]:
    """Read one array after its header has shown that it is of the shape wanted; None in it is any length."""
    if f"{name}.npy" not in arrays.namelist():
        raise EvidenceUnreadableError(f"{path}: has no array {name!r}; {_REMEDY}")
    with arrays.open(f"{name}.npy") as file:
        found, dtype = _header(file)
    fits = len(found) == len(shape) and all(want in (None, got) for want, got in zip(shape, found, strict=False))
    if dtype.kind not in kinds or not fits:
        raise EvidenceUnreadableError(f"{path}: {name} is {dtype}{list(found)}, expected {list(shape)}; {_REMEDY}")
    if int(np.prod(found, dtype=np.float64)) * dtype.itemsize > max_bytes:
        raise EvidenceUnreadableError(f"{path}: {name} has more than {max_bytes:,} bytes; dump fewer tokens")
    with arrays.open(f"{name}.npy") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"version {version} of the .npy format")
    return shape, dtype
