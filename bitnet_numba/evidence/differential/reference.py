"""Logits that another engine dumped: an .npz file with ``tokens`` and ``logits``, read as a stranger's file."""

import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import numpy.typing as npt

from bitnet_numba.errors import EvidenceUnreadableError
from bitnet_numba.files import open_regular

MAX_TOKENS: Final = 1 << 20
MAX_LOGITS_BYTES: Final = 4 << 30
_REMEDY: Final = "write tokens as int[T] and logits as float[T, vocab_size] with numpy.savez"


def read_reference(path: Path, vocab_size: int) -> tuple[list[int], npt.NDArray[np.floating[Any]]]:
    """Return the tokens and their logits, float[T, vocab_size].

    Sizes and types are checked before the arrays are read.

    Raises
    ------
    EvidenceUnreadableError
        If the file is none, or its arrays are not of this form, too large, or not finite.
    """
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as arrays:
                tokens = _array(arrays, path, "tokens", "iu", (None,), 8 * MAX_TOKENS)
                logits = _array(arrays, path, "logits", "f", (len(tokens), vocab_size), MAX_LOGITS_BYTES)
        except (zipfile.error, zlib.error, OSError, ValueError, EOFError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise EvidenceUnreadableError(f"{path}: cannot be read ({reason}); {_REMEDY}") from error
    if not tokens.size or tokens.min() < 0 or tokens.max() >= vocab_size:
        raise EvidenceUnreadableError(f"{path}: tokens are not ids from 0 to {vocab_size - 1:,}; {_REMEDY}")
    if not np.isfinite(logits).all():
        raise EvidenceUnreadableError(f"{path}: a logit is infinite or NaN; dump them again")
    return [int(token) for token in tokens], logits


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
