"""The cache on disk, in the layout that all programs on the hub's library share.

A repository is a folder ``models--org--name``: contents lie in ``blobs`` under their ETag, ``snapshots`` has a folder
of links to them for every commit, and ``refs`` names the commit that a branch or tag had last.

References
----------
https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

import re
from pathlib import Path

from bitnet_numba.files import atomic_write
from bitnet_numba.hub.choice import choose_files
from bitnet_numba.hub.library import constants
from bitnet_numba.hub.model_id import HubReference

_COMMIT = re.compile("[0-9a-f]{40}")


class RepositoryCache:
    """Where the files of one repository are kept.

    Parameters
    ----------
    repo : str
        ``org/name``.
    root : Path, optional
        The cache of all repositories; by default what ``HF_HUB_CACHE`` or ``HF_HOME`` say, else
        ``~/.cache/huggingface/hub``.
    """

    def __init__(self, repo: str, root: Path | None = None) -> None:
        root = Path(constants.HF_HUB_CACHE) if root is None else root
        name = f"models--{repo.replace('/', '--')}"
        self.folder = root / name
        self._locks = root / ".locks" / name

    def blob(self, etag: str) -> Path:
        """Return where a content lies, or will lie."""
        return self.folder / "blobs" / etag

    def partial(self, etag: str) -> Path:
        """Return where a content is gathered until it is whole."""
        return self.folder / "blobs" / f"{etag}.incomplete"

    def lock(self, etag: str) -> Path:
        """Return the file that a program locks while it gathers a content."""
        return self._locks / f"{etag}.lock"

    def snapshot(self, commit: str) -> Path:
        """Return the folder of a commit."""
        return self.folder / "snapshots" / commit

    def make_folders(self, etag: str) -> None:
        """Make the folders that a download writes to."""
        self.blob(etag).parent.mkdir(parents=True, exist_ok=True)
        self.lock(etag).parent.mkdir(parents=True, exist_ok=True)

    def link(self, commit: str, name: str, etag: str) -> Path:
        """Let a file of a commit be the content that lies here, and return its path."""
        path = self.snapshot(commit) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.unlink(missing_ok=True)  # a link to a content that is gone
            path.symlink_to(Path(*[".."] * (len(path.relative_to(self.folder).parts) - 1), "blobs", etag))
        return path

    def remember(self, revision: str, commit: str) -> None:
        """Write down which commit a branch or tag has."""
        if revision == commit:
            return
        reference = self.folder / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(reference) as file:
            file.write(commit.encode())

    def commit_of(self, revision: str) -> str | None:
        """Return the commit that a revision had last, or None if that was never asked."""
        if _COMMIT.fullmatch(revision):
            return revision
        reference = self.folder / "refs" / revision
        return reference.read_text(encoding="ascii").strip() if reference.is_file() else None

    def find(self, reference: HubReference) -> list[Path]:
        """Return the files of a model as far as they lie here; empty if it was never fetched.

        Raises
        ------
        BitNetError
            If several models of the repository lie here, and the reference does not say which.
        """
        commit = self.commit_of(reference.revision)
        folder = None if commit is None else self.snapshot(commit)
        if folder is None or not folder.is_dir():
            return []
        if reference.file is not None:
            path = folder / reference.file
            return [path] if path.is_file() else []
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        return [folder / name for name in choose_files(names, str(reference))]


def path_to_open(files: list[Path]) -> Path:
    """Return what to open: the one file, or the folder of a Hugging Face directory."""
    return files[0] if len(files) == 1 else files[0].parent
