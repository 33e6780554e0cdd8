"""Files: digests, sizes, and atomic writes, which leave either the whole file or nothing."""

import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from bitnet_numba.errors import BitNetError, ResourceError

UNFINISHED = ".part"
MAX_NAME_BYTES = 255 - len(".") - len(".12345678") - len(UNFINISHED)  # with what a temporary file's name adds
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def exists(path: Path) -> bool:
    """Tell whether something has this name; BitNetError if the system cannot tell, as for a name that is too long."""
    try:
        path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise BitNetError(f"{path}: {error.strerror}; check the path") from error
    except ValueError as error:  # a null byte
        raise BitNetError(f"{str(path)!r}: {error}; check the path") from error
    return True


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading: the one opener of files that a user names, or that lie beside such a file.

    It never waits, as opening a named pipe does, and never reads a device without end.

    Raises
    ------
    BitNetError
        If the file is missing, of another kind, or not readable.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        missing = "no such file; check the path"
        unreadable = f"cannot be read ({error.strerror}); check its permissions"
        raise BitNetError(f"{path}: {missing if error.errno == errno.ENOENT else unreadable}") from error
    except ValueError as error:  # a null byte
        raise BitNetError(f"{str(path)!r}: {error}; check the path") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise BitNetError(f"{path}: is not a regular file; check the path")
    return os.fdopen(handle, "rb")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 lowercase hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(sha256: str) -> str:
    """Return a digest in the form of records and policies."""
    return f"sha256-{sha256}"


def check_target(path: Path) -> None:
    """Refuse a file that could not be written, before the work for it begins: only regular files are replaced."""
    if len(os.fsencode(path.name)) > MAX_NAME_BYTES:
        raise BitNetError(f"{path.name[:40]}...: the name has more than {MAX_NAME_BYTES} bytes; choose a shorter one")
    if path.is_symlink() or (exists(path) and not path.is_file()):
        raise BitNetError(f"{path}: is a folder, a symbolic link, a device or a pipe; name a plain file")
    if not exists(path.parent) or not path.parent.is_dir():
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
            name = path.with_name(f".{path.name}.{secrets.token_hex(4)}{UNFINISHED}")
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)  # less the umask
        except FileExistsError:
            continue
        except OSError as error:
            raise BitNetError(f"{path.parent}: takes no files ({error.strerror}); choose another folder") from error
        with suppress(OSError):  # on a file system without locks, abandoned files stay
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return name, os.fdopen(handle, "wb")
        os.close(handle)  # another process removed it as abandoned before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of writers that were killed."""
    try:
        names = list(path.parent.iterdir())
    except OSError:  # a folder that may be written to and not read
        return
    for leftover in names:
        if not (leftover.name.startswith(f".{path.name}.") and leftover.name.endswith(UNFINISHED)):
            continue
        with suppress(OSError, BitNetError), open_regular(leftover) as file:
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
