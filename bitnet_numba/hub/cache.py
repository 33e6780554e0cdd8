"""The Hugging Face cache on disk, shared with transformers and other programs; nothing is downloaded here.

A repository is a folder ``models--org--name``: ``blobs`` holds contents by ETag, ``snapshots`` has a folder of links to
them for each commit, and ``refs`` the last known commit of each branch or tag; see
https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from bitnet_numba.errors import BitNetError, excerpt
from bitnet_numba.files import atomic_write, exists, open_regular
from bitnet_numba.hub.model_id import HubReference, parse_reference

_COMMIT_BYTES = 40
_COMMIT = re.compile(f"[0-9a-f]{{{_COMMIT_BYTES}}}")
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_BESIDE_WEIGHTS = frozenset(
    {
        *("chat_template.jinja", "config.json", "generation_config.json", "model.safetensors.index.json"),
        *("special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    }
)


class RepositoryCache:
    """Cache folder of a repository ``org/name``, below ``HF_HUB_CACHE`` (default: ``~/.cache/huggingface/hub``)."""

    def __init__(self, repo: str) -> None:
        from bitnet_numba.hub.library import constants  # here, so that other models do not pay for this import

        root = Path(constants.HF_HUB_CACHE)
        name = f"models--{repo.replace('/', '--')}"
        self.folder = root / name
        self._locks = root / ".locks" / name

    def blob(self, etag: str) -> Path:
        """Return the path of a content."""
        return self.folder / "blobs" / etag

    def partial(self, etag: str) -> Path:
        """Return the path of a content while it is downloaded."""
        return self.folder / "blobs" / f"{etag}.incomplete"

    def lock(self, etag: str) -> Path:
        """Return the file to lock while a content is downloaded."""
        return self._locks / f"{etag}.lock"

    def snapshot(self, commit: str) -> Path:
        """Return the folder of a commit."""
        return self.folder / "snapshots" / commit

    def make_folders(self) -> None:
        """Make the folders that a download writes to."""
        for folder in (self.folder / "blobs", self._locks):
            folder.mkdir(parents=True, exist_ok=True)

    def link(self, commit: str, name: str, etag: str) -> Path:
        """Link a file of a commit to its content, and return the link's path."""
        path = self.snapshot(commit) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.unlink(missing_ok=True)  # a dangling link
            path.symlink_to(Path(*[".."] * (len(path.relative_to(self.folder).parts) - 1), "blobs", etag))
        return path

    def write_ref(self, revision: str, commit: str) -> None:
        """Write the commit of a branch or tag."""
        if revision == commit:
            return
        ref = self.folder / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(ref) as file:
            file.write(commit.encode())

    def find(self, reference: HubReference) -> list[Path]:
        """Return the cached files of a model, empty if it was never downloaded; raises as :func:`choose_files`."""
        commit = reference.revision
        if not _COMMIT.fullmatch(commit):
            ref = self.folder / "refs" / commit
            if not exists(ref):
                return []
            with open_regular(ref) as file:
                commit = file.read(_COMMIT_BYTES + 2).decode("ascii", "replace").strip()
            if not _COMMIT.fullmatch(commit):
                raise BitNetError(f"{ref}: holds {excerpt(commit)}, not the commit of a revision; pull the model again")
        folder = self.snapshot(commit)
        if reference.file is not None:
            path = folder / reference.file
            return [path] if path.is_file() else []
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        return [folder / name for name in choose_files(names, str(reference))]


def cached_model(name: str) -> Path | None:
    """Return the path of a cached model, or None for a name that is no hub id; BitNetError if it is not cached."""
    reference = parse_reference(name)
    if reference is None:
        return None
    files = RepositoryCache(reference.repo).find(reference)
    if not files:
        raise BitNetError(
            f"{name}: no such model, and the hub's cache does not have it; correct the path, or fetch it with"
            f" 'bitnet-numba pull {name}'"
        )
    return path_to_open(files)


def path_to_open(files: Sequence[Path]) -> Path:
    """Return the path to load a model from: its one file, or the folder of a Hugging Face directory."""
    return files[0] if len(files) == 1 else files[0].parent


def choose_files(names: Sequence[str], place: str) -> list[str]:
    """Choose the model among a repository's file names: one GGUF file, a Hugging Face directory's files, or nothing.

    Of several GGUF files, the one with ``i2_s`` in its name is taken. ``place`` names the repository in the BitNetError
    for more than one model.
    """
    ggufs = [name for name in names if name.endswith(".gguf")]
    if len(ggufs) > 1:
        ggufs = [name for name in ggufs if "i2_s" in PurePosixPath(name).name.lower()] or ggufs
    if len(ggufs) > 1:
        shown = ", ".join(sorted(ggufs)[:8])
        raise BitNetError(f"{place}: holds {len(ggufs)} GGUF files ({shown}); choose one with --file or ':file'")
    if ggufs:
        return ggufs
    weights = sorted(name for name in names if _WEIGHTS.fullmatch(name))
    return sorted(_BESIDE_WEIGHTS.intersection(names)) + weights if "config.json" in names and weights else []
