"""Hub model ids: ``org/name[@revision][:file]``."""

import re
from dataclasses import dataclass
from urllib.parse import quote

from bitnet_numba.errors import ParameterError

DEFAULT_REVISION = "main"

_NAME = r"[A-Za-z0-9][\w.-]*"
_REFERENCE = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(@(?P<revision>[\w./-]+))?(:(?P<file>[^:\\]+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository ``org/name`` at a branch, tag or commit, and a path inside it (None: its only model)."""

    repo: str
    revision: str = DEFAULT_REVISION
    file: str | None = None

    def __str__(self) -> str:
        revision = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"{self.repo}{revision}" + ("" if self.file is None else f":{self.file}")

    def url(self, endpoint: str) -> str:
        """Return the download address of the file."""
        return f"{endpoint}/{self.repo}/resolve/{quote(self.revision, safe='')}/{quote(self.file or '')}"


def parse_reference(text: str) -> HubReference | None:
    """Parse a hub id, or return None; a path with one slash looks the same, so check the file system first."""
    match = _REFERENCE.fullmatch(text)
    if match is None or not all(is_safe_path(path) for path in (match["revision"], match["file"]) if path is not None):
        return None
    return HubReference(match["repo"], match["revision"] or DEFAULT_REVISION, match["file"])


def checked_reference(text: str, *, revision: str | None = None, file: str | None = None) -> HubReference:
    """Parse a hub id; ParameterError if it is none, or contradicts the options for its revision and file."""
    base = parse_reference(text)
    if base is None:
        raise ParameterError(f"{text!r}: not a model on the hub; write org/name, org/name@revision or org/name:file")
    for what, inside, option in (("revision", base.revision, revision), ("file", base.file, file)):
        if option is not None and inside not in (None, DEFAULT_REVISION, option):
            raise ParameterError(f"{text!r}: the {what} is given twice, the other is {option!r}; give one")
    joined = str(HubReference(base.repo, revision or base.revision, file or base.file))
    whole = parse_reference(joined)
    if whole is None:
        raise ParameterError(f"{joined!r}: not a file of a repository on the hub; correct the revision or the file")
    return whole


def is_safe_path(path: str) -> bool:
    """Tell whether a revision or file name is printable and stays inside the cache folder."""
    return path.isprintable() and not (path.startswith("/") or {"", ".", ".."} & set(path.split("/")))
