"""Files: digests, sizes, and writing that leaves either the whole file or nothing."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bitnet_numba.errors import BitNetError


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 lowercase hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that appears under ``path``, whole and on the disk, only when the block ends well.

    The bytes go to a temporary name in the same folder, are forced to the disk, and are then renamed. A link at
    ``path`` is refused rather than followed.

    Raises
    ------
    BitNetError
        If ``path`` is a symbolic link, or its folder does not exist.
    """
    if path.is_symlink():
        raise BitNetError(f"{path}: is a symbolic link; name the file that it points to")
    if not path.parent.is_dir():
        raise BitNetError(f"{path.parent}: no such directory; create it first")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def human_size(n_bytes: int) -> str:
    """Return a size as people read it, in powers of ten: ``1.19 GB``."""
    size = float(n_bytes)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
