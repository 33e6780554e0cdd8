"""Recognise what lies where a file of a model should be: a Git LFS pointer, or the web page about the file."""

from pathlib import Path
from typing import Final

from bitnet_numba.errors import FormatError

HEAD_BYTES: Final = 256
_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_PAGES: Final = (b"<!doctype html", b"<html")


def refuse_stand_in(path: Path, head: bytes) -> None:
    """Raise a FormatError if a file that begins with ``head`` stands in for another."""
    if head.startswith(_POINTER):
        raise FormatError(
            f"{path}: is a Git LFS pointer, not the file itself; run 'git lfs pull' in its folder, or fetch the model "
            "with 'bitnet-numba pull'"
        )
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        raise FormatError(
            f"{path}: is a web page, not the file itself; download it from the address with /resolve/ instead of "
            "/blob/, or fetch the model with 'bitnet-numba pull'"
        )
