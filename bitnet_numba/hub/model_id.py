"""How a model on the hub is named: ``org/name[@revision][:file]``."""

import re
from dataclasses import dataclass, replace

from bitnet_numba.errors import ParameterError

DEFAULT_REVISION = "main"

_NAME = r"[A-Za-z0-9][\w.-]*"
_REFERENCE = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(@(?P<revision>[\w./-]+))?(:(?P<file>[^:\\]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository on the hub, or one file of it.

    Attributes
    ----------
    repo : str
        ``org/name``.
    revision : str
        A branch, a tag or a commit.
    file : str or None
        A path inside the repository; None leaves the choice to what the repository holds.
    """

    repo: str
    revision: str = DEFAULT_REVISION
    file: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"{self.repo}{revision}" + ("" if self.file is None else f":{self.file}")

    def with_file(self, file: str) -> "HubReference":
        """Return the reference of one file in the same repository and revision."""
        return replace(self, file=file)


def parse_reference(text: str) -> HubReference | None:
    """Read a hub id, or return None for a text that is not one.

    A path with one slash looks the same: callers ask the file system first.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None or not all(stays_inside(path) for path in (match["revision"], match["file"]) if path is not None):
        return None
    return HubReference(match["repo"], match["revision"] or DEFAULT_REVISION, match["file"])


def checked_reference(text: str, *, revision: str | None = None, file: str | None = None) -> HubReference:
    """Read a hub id whose revision and file may be given apart from it.

    Raises
    ------
    ParameterError
        If the text is no hub id, or states a revision or a file that contradicts the one given apart.
    """
    base = parse_reference(text)
    if base is None:
        raise ParameterError(f"{text!r}: not a model on the hub; write org/name, org/name@revision or org/name:file")
    for what, inside, apart in (("revision", base.revision, revision), ("file", base.file, file)):
        if apart is not None and inside not in (None, DEFAULT_REVISION, apart):
            raise ParameterError(f"{text!r}: the {what} is given twice, the other is {apart!r}; give one")
    joined = str(HubReference(base.repo, revision or base.revision, file or base.file))
    whole = parse_reference(joined)
    if whole is None:
        raise ParameterError(f"{joined!r}: not a file of a repository on the hub; correct the revision or the file")
    return whole


def stays_inside(path: str) -> bool:
    """Say whether a revision or file can be part of a path in the cache, and of a message, without doing harm."""
    return path.isprintable() and not (path.startswith("/") or {"", ".", ".."} & set(path.split("/")))
