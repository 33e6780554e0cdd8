"""Resumable download of one file: the next attempt, or process, continues the partial file by HTTP range."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitnet_numba.errors import DiskSpaceError, NetworkError
from bitnet_numba.files import human_size
from bitnet_numba.hub.client import Body, HubClient, RangeRefusedError, RemoteFile
from bitnet_numba.hub.retry import TransientError

SPACE_MARGIN = 50 << 20  # bytes that stay free


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a download, in bytes."""

    name: str  # of the file
    done: int  # on the disk, those of earlier attempts included
    total: int | None
    rate: float  # a second in this attempt; 0 before the first byte

    @property
    def seconds_left(self) -> float | None:
        """Return the remaining seconds at this rate, or None where size or rate are unknown."""
        return (self.total - self.done) / self.rate if self.total is not None and self.rate else None


Report = Callable[[Progress], None]


def download(client: HubClient, remote: RemoteFile, partial: Path, report: Report) -> None:
    """Continue the download of a file into ``partial``, which is kept on failure and on interruption.

    Raises a DiskSpaceError if the rest of the file and a margin do not fit, a BitNetError if the server refuses, a
    TransientError if another attempt may succeed.
    """
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
        size = partial.stat().st_size
        if remote.size not in (None, size):
            if size > remote.size:
                partial.unlink()
            raise _failure(remote, f"received {size:,} bytes, the hub states {remote.size:,}")
    except RangeRefusedError:
        partial.unlink(missing_ok=True)
        raise _failure(remote, "the server refuses to resume") from None
    except TransientError as failure:
        failure.progressed = partial.exists() and partial.stat().st_size > have
        raise


def _failure(remote: RemoteFile, problem: str) -> TransientError:
    return TransientError(NetworkError(f"{remote.reference}: {problem}"))


def _check_space(folder: Path, remote: RemoteFile, have: int) -> None:
    needed = (remote.size or 0) - have + SPACE_MARGIN
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskSpaceError(
            f"{folder}: {human_size(free)} are free, {remote.reference} needs {human_size(needed)} with a margin of"
            f" {human_size(SPACE_MARGIN)}; free some space, or set HF_HUB_CACHE to a folder on another disk"
        )


def _check_body(body: Body, remote: RemoteFile, have: int) -> None:
    if body.start not in (0, have):
        raise _failure(remote, f"the server sends the bytes from {body.start:,} on, not from {have:,}")
    if remote.size is not None and body.total not in (None, remote.size):
        raise _failure(remote, f"the server sends {body.total:,} bytes, the hub states {remote.size:,}")


def _receive(body: Body, remote: RemoteFile, partial: Path, report: Report) -> None:
    """Append the body to the partial file, or start over where the server sends the whole file."""
    total = body.total if remote.size is None else remote.size
    done, began = body.start, time.monotonic()
    report(Progress(remote.name, done, total, 0.0))
    with partial.open("ab" if body.start else "wb") as file:
        for chunk in body.chunks:
            file.write(chunk)
            file.flush()  # survives even if the process is killed
            done += len(chunk)
            report(Progress(remote.name, done, total, (done - body.start) / max(time.monotonic() - began, 1e-3)))
            if total is not None and done > total:
                break
