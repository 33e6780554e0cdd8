"""The machine code of one function on disk: the cache that Numba's dispatcher asks before it compiles.

Numba's own keeps an index beside the code, by absolute paths. Here an entry's name tells its signature, so there is no
index that two processes could overwrite, or a fault could damage, and a folder can be moved.
"""

import functools
import hashlib
import inspect
import logging
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.core.sigutils import normalize_signature

from bitnet_numba.backends.cpu.compiler import separate
from bitnet_numba.backends.cpu.compiler.compilation import watch
from bitnet_numba.backends.cpu.compiler.kernel_cache import cache_folder, is_trusted
from bitnet_numba.backends.cpu.compiler.shipped import shipped

_logger = logging.getLogger("bitnet_numba")
_DIGEST_BYTES = hashlib.sha256().digest_size


class FunctionCache:
    """Loads and stores the compiled signatures of a function; a damaged entry is one that is not there."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._source = Path(inspect.getfile(function))
        self._name = f"{self._source.stem}.{function.__qualname__}".replace("<", "").replace(">", "")
        self._line = function.__code__.co_firstlineno
        self._can_store = function.__closure__ is None

    @property
    def cache_path(self) -> str:
        """The folder, as Numba's statistics show it."""
        return str(cache_folder().path)

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the compile result of a signature, or ``None``: then Numba compiles it next."""
        result = self._load(signature, target_context)
        if result is None:
            watch.on_miss()
        elif watch.depth == 0:
            separate.complete()
        return result

    def _load(self, signature: Any, target_context: Any) -> Any:
        folder, name = cache_folder().path, self._entry(signature)
        if name is None:
            return None
        target_context.refresh()
        stored = [shipped().read(name), None if folder is None else _read(folder / name)]
        for content in filter(None, stored):
            try:
                return _rebuilt(content, signature, target_context)
            except Exception:  # anything can come out of a damaged pickle
                continue
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Store the compile result of a signature; where that fails, the next start compiles again."""
        folder, name = cache_folder(), self._entry(signature)
        uses = separate.uses_of(result.library._final_module)
        has_addresses = len(result.library._dynamic_globals) > len(uses)
        if folder.path is None or not folder.is_writable or name is None or has_addresses:
            return
        try:
            _write(folder.path / name, dumps((normalize_signature(signature)[0], uses, _reduced(result))))
        except OSError as error:  # a full disk costs the next start its speed, not this one its answer
            _say_once(f"compiled kernels cannot be kept: {folder.path}: {error.strerror}")

    def holds(self, signature: Any) -> bool:
        """Return whether there is an entry for a signature, or there cannot be one."""
        folder, name = cache_folder(), self._entry(signature)
        if folder.path is None or not folder.is_writable or name is None or name in shipped().digests:
            return True
        return (folder.path / name).exists()

    def flush(self) -> None:
        """Do nothing: what is compiled again is stored again."""

    def _entry(self, signature: Any) -> str | None:
        """Return the file name of a signature's entry; None for what no name can tell apart."""
        source = _source_digest(self._source) if self._can_store else None
        if source is None:
            return None
        key = f"{self._name} {self._line} {source} {normalize_signature(signature)[0]}"
        return f"{self._name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.nbc"


@functools.cache
def _source_digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


@functools.cache
def _say_once(text: str) -> None:
    _logger.warning(text)


def _reduced(result: Any) -> tuple[Any, ...]:
    """Return a compile result as Numba stores it, without the annotated source, which has the paths of this machine."""
    library, description, environment, signature, objectmode, lifted, _, *others = result._reduce()
    return library, description, environment, signature, objectmode, lifted, "", *others


def _read(path: Path) -> bytes | None:
    """Read a file that nobody but this user and root can have written, if it is there."""
    try:
        with path.open("rb") as file:
            return file.read() if is_trusted(os.fstat(file.fileno())) else None
    except OSError:
        return None


def _rebuilt(stored: bytes, signature: Any, target_context: Any) -> Any:
    """Return the compile result in a file's bytes: a pickle behind its digest, for one changed byte could do anything.

    ValueError where they are damaged, or another signature's.
    """
    digest, pickled = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
    if hashlib.sha256(pickled).digest() != digest:
        raise ValueError("damaged")
    arguments, uses, reduced = pickle.loads(pickled)
    if arguments != normalize_signature(signature)[0]:
        raise ValueError("another signature")
    for use in uses:
        separate.link(use)
    return CompileResult._rebuild(target_context, *reduced)


def _write(path: Path, pickled: bytes) -> None:
    """Write a whole file or none, which nobody else can change, whatever the umask is."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644), "wb") as file:
            file.write(hashlib.sha256(pickled).digest() + pickled)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
