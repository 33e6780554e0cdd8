"""Files: digests, sizes, and atomic writes, which leave either the whole file or nothing."""

import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bitnet_numba.errors import BitNetError, ResourceError

UNFINISHED = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 lowercase hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(sha256: str) -> str:
    """Return a digest in the form of records and policies."""
    return f"sha256-{sha256}"


def check_target(path: Path) -> None:
    """Refuse a file that could not be written, before the work for it begins."""
    if path.is_symlink() or path.is_dir():
        raise BitNetError(f"{path}: is a folder or a symbolic link; name a plain file")
    if not path.parent.is_dir():
        raise BitNetError(f"{path.parent}: no such directory; create it first")
    if not os.access(path.parent, os.W_OK):
        raise BitNetError(f"{path.parent}: takes no files; choose another folder")


@contextmanager
def atomic_write(path: Path, before_rename: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """Open a file that appears at ``path``, complete and synced to disk, only if the block raises nothing.

    The bytes go to a temporary file in the same folder, which is synced and renamed. Temporary files that killed
    processes left for the same path are removed. ``before_rename`` is called with the complete temporary file; if it
    raises, the file does not appear. Raises as :func:`check_target`, a BitNetError if writing fails, and a
    ResourceError if the disk is full.
    """
    check_target(path)
    _remove_abandoned(path)
    temporary, file = _new_file(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if before_rename is not None:
                before_rename(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)  # while the file is open and locked
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in _FULL:
            problem = f"no room for it ({error.strerror}); free space or name another disk"
            raise ResourceError(f"{path}: {problem}") from error
        raise BitNetError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _new_file(path: Path) -> tuple[Path, BinaryIO]:
    """Make the temporary file, locked while it is open: the lock shows that its writer lives."""
    while True:
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
        except OSError as error:
            raise BitNetError(f"{path.parent}: takes no files ({error.strerror}); choose another folder") from error
        with suppress(OSError):  # on a file system without locks, abandoned files stay
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return Path(name), os.fdopen(handle, "wb")
        os.close(handle)  # another process removed it as abandoned before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    for leftover in path.parent.iterdir():
        if not (leftover.name.startswith(f".{path.name}.") and leftover.name.endswith(UNFINISHED)):
            continue
        with suppress(OSError), leftover.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink()


def human_size(n_bytes: int) -> str:
    """Return a size in powers of ten: ``1.19 GB``."""
    size = float(n_bytes)
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
