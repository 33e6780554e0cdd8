"""Fetch a model from the hub into the cache, and check that it is the one that was meant."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bitnet_numba.errors import BitNetError, DiskSpaceError, IntegrityError, NetworkError, ParameterError
from bitnet_numba.files import sha256_file
from bitnet_numba.hub.cache import RepositoryCache, path_to_open
from bitnet_numba.hub.choice import choose_files
from bitnet_numba.hub.client import HubClient, RemoteFile
from bitnet_numba.hub.known import known_sha256
from bitnet_numba.hub.library import WeakFileLock, constants
from bitnet_numba.hub.model_id import HubReference
from bitnet_numba.hub.retry import RetryPolicy, Say, with_retries
from bitnet_numba.hub.transfer import Progress, Report, gather
from bitnet_numba.settings import read_settings


@dataclass(frozen=True, slots=True)
class PulledFile:
    """A file that lies in the cache, and was read once to the end.

    Attributes
    ----------
    path : Path
    sha256 : str
        64 lowercase hexadecimal digits.
    size : int
        Bytes.
    """

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that lies in the cache.

    Attributes
    ----------
    path : Path
        What to open: the GGUF file, or the Hugging Face directory.
    files : list of PulledFile
    """

    path: Path
    files: list[PulledFile]

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the model must be.

    Attributes
    ----------
    sha256 : str or None
        Of its one file.
    min_size : int
        Bytes, of all files.
    """

    sha256: str | None = None
    min_size: int = 0


def pull(
    reference: HubReference,
    expected: Expected | None = None,
    *,
    offline: bool = False,
    policy: RetryPolicy | None = None,
    cache_root: Path | None = None,
    endpoint: str | None = None,
    report: Report = lambda progress: None,
    say: Say = lambda text: None,
) -> Pulled:
    """Fetch a model into the cache, unless it lies there, and check it.

    Parameters
    ----------
    reference : HubReference
        Where it names no file, the repository's only model is taken.
    expected : Expected, optional
        What the model must be. A file whose SHA-256 this package knows must have that one, unless another is given.
    offline : bool
        Look into the cache only. ``BITNET_OFFLINE`` and ``HF_HUB_OFFLINE`` ask for the same.
    policy : RetryPolicy, optional
        How often and when something is tried again; by default with the timeout of ``HF_HUB_DOWNLOAD_TIMEOUT``.
    cache_root, endpoint : Path, str, optional
        By default what the hub's own variables say.
    report : callable
        Told how far a download has come, at every piece of it.
    say : callable
        Told of failures that are followed by another attempt.

    Raises
    ------
    AuthenticationError, DiskSpaceError, IntegrityError, NetworkError, RateLimitError
        As their names say.
    BitNetError
        If there is no such model, or more than one.
    """
    expected = expected or Expected()
    policy = policy or RetryPolicy(timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    cache = RepositoryCache(reference.repo, cache_root)
    if offline or read_settings().offline or constants.is_offline_mode():
        paths = cache.find(reference)
        if not paths:
            raise NetworkError(
                f"{reference}: not in the cache, and the network is not to be asked; pull it once online"
            )
        files = [_checked(path, _expected_sha256(reference, path.name, expected)) for path in paths]
    else:
        with _disk_failures_told(cache.folder):
            files = _Pull(HubClient(policy.timeout, endpoint), cache, policy, report, say).run(reference, expected)
    pulled = Pulled(path_to_open([file.path for file in files]), files)
    _check_size(pulled, reference, expected)
    return pulled


@dataclass(frozen=True, slots=True)
class _Pull:
    """One model on its way into the cache."""

    client: HubClient
    cache: RepositoryCache
    policy: RetryPolicy
    report: Callable[[Progress], None]
    say: Say

    def run(self, reference: HubReference, expected: Expected) -> list[PulledFile]:
        pinned, names = reference, [reference.file]
        if reference.file is None:
            commit, listed = with_retries(lambda: self.client.list_files(reference), self.policy, self.say)
            pinned, names = replace(reference, revision=commit), [*choose_files(listed, str(reference))]
            if not names:
                raise BitNetError(
                    f"{reference}: holds no .gguf file, and no config.json with model.safetensors; take another model"
                )
        if len(names) > 1 and expected.sha256 is not None:
            raise ParameterError(
                f"{reference}: --sha256 is that of one file, the model has {len(names)}; name the file"
            )
        remotes = [self._described(pinned.with_file(name)) for name in names if name is not None]
        files = [self._fetched(remote, _expected_sha256(reference, remote.name, expected)) for remote in remotes]
        self.cache.remember(reference.revision, remotes[0].commit)
        return files

    def _described(self, reference: HubReference) -> RemoteFile:
        return with_retries(lambda: self.client.describe(reference), self.policy, self.say)

    def _fetched(self, remote: RemoteFile, sha256: str | None) -> PulledFile:
        """Fetch one file unless it lies in the cache."""
        wanted = sha256 or remote.sha256
        path, blob = self.cache.snapshot(remote.commit) / remote.name, self.cache.blob(remote.etag)
        if path.exists():
            return _checked(path, wanted)
        if remote.sha256 not in (None, wanted):
            raise IntegrityError(
                f"{remote.reference}: the hub states the SHA-256 {remote.sha256}, expected {wanted};"
                " take the revision that was meant, or state its SHA-256 with --sha256"
            )
        self.cache.make_folders(remote.etag)
        with WeakFileLock(self.cache.lock(remote.etag)):
            if not blob.exists():
                partial = self.cache.partial(remote.etag)
                gather(self.client, remote, partial, self.policy, self.report, self.say)
                found = _check_gathered(partial, remote, wanted)
                partial.replace(blob)
                path = self.cache.link(remote.commit, remote.name, remote.etag)
                return PulledFile(path, found, path.stat().st_size)
            path = self.cache.link(remote.commit, remote.name, remote.etag)
        return _checked(path, wanted)


@contextmanager
def _disk_failures_told(folder: Path) -> Iterator[None]:
    """Turn what the file system says about the cache into our own errors."""
    try:
        yield
    except BrokenPipeError:  # of a reader of the messages, who has left
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskSpaceError(f"{folder}: the disk is full; free some space and start it again") from None
        raise BitNetError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error});"
            " set HF_HUB_CACHE to another folder"
        ) from None


# ---- checks ----------------------------------------------------------------------------------------------------------
def _expected_sha256(reference: HubReference, name: str, expected: Expected) -> str | None:
    return expected.sha256 or known_sha256(reference, name)


def _check_gathered(partial: Path, remote: RemoteFile, wanted: str | None) -> str:
    """Return the SHA-256 of what has come; a file that differs is removed, since nothing can go on with it."""
    found = sha256_file(partial)
    if wanted is not None and found != wanted:
        partial.unlink()
        raise IntegrityError(
            f"{remote.reference}: has the SHA-256 {found}, expected {wanted}; it was removed: pull it again"
        )
    return found


def _checked(path: Path, sha256: str | None) -> PulledFile:
    found = sha256_file(path)
    if sha256 is not None and found != sha256:
        raise IntegrityError(
            f"{path}: has the SHA-256 {found}, expected {sha256}; if that is right, delete {path.resolve()} and pull"
            " it again"
        )
    return PulledFile(path, found, path.stat().st_size)


def _check_size(pulled: Pulled, reference: HubReference, expected: Expected) -> None:
    if pulled.size < expected.min_size:
        raise IntegrityError(
            f"{reference}: has {pulled.size:,} bytes, expected at least {expected.min_size:,}; it may be another model"
        )
