"""One file from the hub to the disk: gathered in a partial file, which the next attempt goes on with."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitnet_numba.errors import DiskSpaceError, NetworkError
from bitnet_numba.files import human_size
from bitnet_numba.hub.client import Body, HubClient, RangeRefusedError, RemoteFile
from bitnet_numba.hub.retry import RetryPolicy, Say, TransientError, with_retries

SPACE_MARGIN = 50 << 20  # bytes that stay free


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download has come.

    Attributes
    ----------
    name : str
        The file.
    done : int
        Bytes on the disk, those of earlier attempts included.
    total : int or None
        Bytes of the whole file.
    rate : float
        Bytes per second of this attempt; 0 where nothing has come yet.
    """

    name: str
    done: int
    total: int | None
    rate: float

    @property
    def seconds_left(self) -> float | None:
        """Return how long the rest will take at this rate, or None where nobody can know."""
        return (self.total - self.done) / self.rate if self.total is not None and self.rate else None


Report = Callable[[Progress], None]


def free_bytes(folder: Path) -> int:
    """Return how many bytes can still be written to a folder."""
    return shutil.disk_usage(folder).free


def gather(client: HubClient, remote: RemoteFile, partial: Path, policy: RetryPolicy, report: Report, say: Say) -> None:
    """Fetch a file into a partial file, going on where an earlier attempt or process stopped.

    The partial file stays where it is when this fails or is interrupted.

    Raises
    ------
    DiskSpaceError
        If less than the rest and a margin is free.
    BitNetError
        If the server fails too often, or refuses.
    """
    with_retries(lambda: _attempt(client, remote, partial, report), policy, say)


def _attempt(client: HubClient, remote: RemoteFile, partial: Path, report: Report) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    if have and have == remote.size:
        return
    if remote.size is not None and have > remote.size:
        partial.unlink()
        have = 0
    _check_space(partial.parent, remote, have)
    try:
        with client.open(remote, have) as body:
            _check_body(body, remote, have)
            _receive(body, remote, partial, report)
        _check_length(remote, partial)
    except RangeRefusedError:
        partial.unlink(missing_ok=True)
        raise TransientError(NetworkError(f"{remote.reference}: the server refuses to go on")) from None
    except TransientError as failure:
        failure.progressed = partial.exists() and partial.stat().st_size > have
        raise


def _check_space(folder: Path, remote: RemoteFile, have: int) -> None:
    needed = (remote.size or 0) - have + SPACE_MARGIN
    free = free_bytes(folder)
    if free < needed:
        raise DiskSpaceError(
            f"{folder}: {human_size(free)} are free, {remote.reference} needs {human_size(needed)} with a margin of"
            f" {human_size(SPACE_MARGIN)}; free some space, or set HF_HUB_CACHE to a folder on another disk"
        )


def _check_body(body: Body, remote: RemoteFile, have: int) -> None:
    if body.start not in (0, have):
        raise TransientError(NetworkError(f"{remote.reference}: the server sends another part than asked for"))
    if remote.size is not None and body.total not in (None, remote.size):
        raise TransientError(
            NetworkError(f"{remote.reference}: the server sends {body.total:,} bytes, the hub states {remote.size:,}")
        )


def _receive(body: Body, remote: RemoteFile, partial: Path, report: Report) -> None:
    """Write what comes behind what is there, or from the start where the server begins there."""
    total = body.total if remote.size is None else remote.size
    name, done, began = remote.name, body.start, time.monotonic()
    report(Progress(name, done, total, 0.0))
    with partial.open("ab" if body.start else "wb") as file:
        for chunk in body.chunks:
            file.write(chunk)
            file.flush()  # what has come is kept even by a process that is killed
            done += len(chunk)
            report(Progress(name, done, total, (done - body.start) / max(time.monotonic() - began, 1e-3)))
            if total is not None and done > total:
                break


def _check_length(remote: RemoteFile, partial: Path) -> None:
    size = partial.stat().st_size
    if remote.size is None or size == remote.size:
        return
    if size > remote.size:
        partial.unlink()
    raise TransientError(NetworkError(f"{remote.reference}: {size:,} bytes have come, the hub states {remote.size:,}"))
