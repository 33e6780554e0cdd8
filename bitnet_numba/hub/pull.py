"""Download a model from the hub into the shared cache and verify it, or verify the copy that is already there."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bitnet_numba.errors import BitNetError, DiskSpaceError, IntegrityError, NetworkError, ParameterError
from bitnet_numba.files import sha256_file
from bitnet_numba.hub.cache import RepositoryCache, choose_files, path_to_open
from bitnet_numba.hub.client import HubClient, RemoteFile
from bitnet_numba.hub.library import WeakFileLock, constants
from bitnet_numba.hub.model_id import DEFAULT_REVISION, HubReference
from bitnet_numba.hub.retry import Result, RetryPolicy, Say, with_retries
from bitnet_numba.hub.transfer import Report, download
from bitnet_numba.settings import read_settings

_KNOWN_SHA256 = {
    (  # 1,187,801,280 bytes
        "microsoft/bitnet-b1.58-2b-4t-gguf",
        "ggml-model-i2_s.gguf",
    ): "4221b252fdd5fd25e15847adfeb5ee88886506ba50b8a34548374492884c2162",
}


@dataclass(frozen=True, slots=True)
class PulledFile:
    """A verified file in the cache: its path, SHA-256 (64 lowercase hexadecimal digits) and size in bytes."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Pulled:
    """A verified model in the cache: the GGUF file or Hugging Face directory to open, and its files."""

    path: Path
    files: list[PulledFile]

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(file.size for file in self.files)


def pull(
    reference: HubReference,
    *,
    sha256: str | None = None,
    min_size: int = 0,
    offline: bool = False,
    report: Report = lambda progress: None,
    say: Say = lambda text: None,
) -> Pulled:
    """Download a model unless it is cached, and verify it.

    A known SHA-256 is checked in any case, unless ``sha256`` states another for the one file. All files have at least
    ``min_size`` bytes together. ``offline`` uses the cache only, as ``BITNET_OFFLINE`` and ``HF_HUB_OFFLINE`` do.
    ``report`` receives the progress after each chunk, ``say`` a line before each retry. Raises a BitNetError if there
    is no such model, or more than one; a subclass for network, access, disk space and integrity.
    """
    cache = RepositoryCache(reference.repo)
    if offline or read_settings().offline or constants.is_offline_mode():
        paths = cache.find(reference)
        if not paths:
            raise NetworkError(f"{reference}: not in the cache, and this is offline mode; pull it once online")
        files = [_verified(path, _expected_sha256(reference, path.name, sha256)) for path in paths]
    else:
        policy = RetryPolicy(timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
        with _disk_errors(cache.folder):
            files = _Pull(HubClient(policy.timeout), cache, policy, report, say).run(reference, sha256)
    pulled = Pulled(path_to_open([file.path for file in files]), files)
    if pulled.size < min_size:
        raise IntegrityError(
            f"{reference}: has {pulled.size:,} bytes, expected at least {min_size:,}; it may be another model"
        )
    return pulled


@dataclass(frozen=True, slots=True)
class _Pull:
    """Download of one model."""

    client: HubClient
    cache: RepositoryCache
    policy: RetryPolicy
    report: Report
    say: Say

    def run(self, reference: HubReference, sha256: str | None) -> list[PulledFile]:
        pinned, names = reference, [reference.file or ""]
        if reference.file is None:
            commit, listed = self._retry(lambda: self.client.list_files(reference))
            pinned, names = replace(reference, revision=commit), choose_files(listed, str(reference))
            if not names:
                raise BitNetError(
                    f"{reference}: holds no .gguf file, and no config.json with model.safetensors; take another model"
                )
        if len(names) > 1 and sha256 is not None:
            raise ParameterError(f"{reference}: one --sha256, but the model has {len(names)} files; name the file")
        remotes = [self._retry(partial(self.client.describe, replace(pinned, file=name))) for name in names]
        files = [self._fetch(remote, _expected_sha256(reference, remote.name, sha256)) for remote in remotes]
        self.cache.write_ref(reference.revision, remotes[0].commit)
        return files

    def _retry(self, action: Callable[[], Result]) -> Result:
        return with_retries(action, self.policy, self.say)

    def _fetch(self, remote: RemoteFile, sha256: str | None) -> PulledFile:
        expected = sha256 or remote.sha256
        path, blob = self.cache.snapshot(remote.commit) / remote.name, self.cache.blob(remote.etag)
        if path.exists():
            return _verified(path, expected)
        if remote.sha256 not in (None, expected):
            raise IntegrityError(
                f"{remote.reference}: the hub states the SHA-256 {remote.sha256}, expected {expected};"
                " name the revision you meant, or state its SHA-256 with --sha256"
            )
        self.cache.make_folders()
        with WeakFileLock(self.cache.lock(remote.etag)):
            found = None if blob.exists() else self._download(remote, expected)
            path = self.cache.link(remote.commit, remote.name, remote.etag)
        return PulledFile(path, found, path.stat().st_size) if found else _verified(path, expected)

    def _download(self, remote: RemoteFile, expected: str | None) -> str:
        """Download a content into its blob, and return its SHA-256."""
        path = self.cache.partial(remote.etag)
        self._retry(lambda: download(self.client, remote, path, self.report))
        found = sha256_file(path)
        if expected not in (None, found):
            path.unlink()  # a wrong file cannot be resumed
            raise _wrong_sha256(str(remote.reference), found, expected, "it was removed: pull it again")
        path.replace(self.cache.blob(remote.etag))
        return found


def manual_download(reference: HubReference, sha256: str | None) -> str:
    """Return instructions to download a model on another machine and copy it here."""
    if reference.file is None:
        return (
            "To bring it here by hand, on a machine with a network take from\n"
            f"    {constants.ENDPOINT}/{reference.repo}/tree/{reference.revision}\n"
            "the .gguf file, or config.json, tokenizer.json and the .safetensors files into one folder. Copy that here,"
            " and name it:\n"
            "    bitnet-numba run -m PATH"
        )
    name = reference.file.rpartition("/")[2]
    digest = _expected_sha256(reference, reference.file, sha256)
    return (
        "To bring it here by hand, on a machine with a network:\n"
        f"    curl -fL -C - -o {name} {reference.url(constants.ENDPOINT)}\n"
        f"    sha256sum {name}{'' if digest is None else f'    # {digest}'}\n"
        "Copy the file here, and name it:\n"
        f"    bitnet-numba run -m ./{name}"
    )


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Translate the file system's errors while the cache is written."""
    try:
        yield
    except BrokenPipeError:  # stderr was closed
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskSpaceError(f"{folder}: the disk is full; free some space and start it again") from None
        raise BitNetError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error});"
            " set HF_HUB_CACHE to another folder"
        ) from None


def _expected_sha256(reference: HubReference, name: str, sha256: str | None) -> str | None:
    """Return the SHA-256 from the user, else the known one of the default revision; the hub ignores case in names."""
    is_default = reference.revision == DEFAULT_REVISION
    return sha256 or (_KNOWN_SHA256.get((reference.repo.lower(), name)) if is_default else None)


def _verified(path: Path, sha256: str | None) -> PulledFile:
    found = sha256_file(path)
    if sha256 not in (None, found):
        raise _wrong_sha256(str(path), found, sha256, f"if that is right, delete {path.resolve()} and pull it again")
    return PulledFile(path, found, path.stat().st_size)


def _wrong_sha256(place: str, found: str, expected: str | None, remedy: str) -> IntegrityError:
    return IntegrityError(f"{place}: has the SHA-256 {found}, expected {expected}; {remedy}")
