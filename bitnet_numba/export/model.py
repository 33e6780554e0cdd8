"""``export``: write a checkpoint as a GGUF file, with its fingerprint and a record of its origin."""

import datetime
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_numba.errors import BitNetError, ParameterError
from bitnet_numba.export.gguf import GGUFExport, Written
from bitnet_numba.export.quantization import TYPES, is_float
from bitnet_numba.files import atomic_write, fingerprint_of, sha256_file
from bitnet_numba.formats.gguf_writer import Report

CONVERTER = "bitnet-numba export"
_DESCRIPTIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
)


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """The arguments of :func:`export_model`."""

    directory: Path  # with config.json, tokenizer.json and safetensors files
    out_dir: Path  # made if it is missing
    type: str = "f16"  # one of bitnet_numba.export.quantization.TYPES
    tokenizer: Path | None = None  # a tokenizer.json elsewhere
    hf_repo: str | None = None  # origin of the checkpoint; its last part becomes the model's name
    revision: str | None = None  # of that repository
    masters: bool = False  # in a float type, keep the training's weights instead of those that the engine computes with
    strict: bool = False  # refuse rounded values and left-out tensors instead of noting them

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise ParameterError(f"type {self.type!r}: expected one of {', '.join(TYPES)}")


@dataclass(frozen=True, slots=True)
class ExportResult:
    """The written files, the contents of ``meta_file``, and a note on each rounded or left-out tensor."""

    gguf: Path
    fingerprint_file: Path
    meta_file: Path
    meta: dict[str, Any]
    notes: tuple[str, ...]


def export_model(request: ExportRequest, report: Report | None = None) -> ExportResult:
    """Write ``clean-<type>.gguf``, ``clean-<type>.fingerprint`` and ``clean-<type>.meta.json``.

    The GGUF file holds no date, no path and nothing about the machine: the same checkpoint gives the same bytes.
    ``report`` is called after each part that is written.

    Raises FormatError if the checkpoint contradicts itself, or a weight is not finite; UnsupportedError if the model's
    family, its tokenizer or a value is not exported; BitNetError if a file is missing or cannot be written. Whatever
    the error, older files are then as they were.
    """
    stem = request.out_dir / f"clean-{request.type}"
    gguf, fingerprint_file, meta_file = (Path(f"{stem}{suffix}") for suffix in (".gguf", ".fingerprint", ".meta.json"))
    name = request.hf_repo.rstrip("/").rpartition("/")[2] if request.hf_repo else None
    export = GGUFExport(
        request.directory, gguf, TYPES[request.type], name=name, tokenizer=request.tokenizer, masters=request.masters
    )
    digests: dict[str, str] = {}

    def before_rename(temporary: Path) -> None:
        digests["output"] = sha256_file(temporary)
        # A process can be killed between any two of the renames: fingerprint and record of the older file go before it
        # does, so that they are always those of the file beside them.
        meta_file.unlink(missing_ok=True)
        fingerprint_file.unlink(missing_ok=True)

    try:
        with _folder(request.out_dir), _background_digests(_read_files(export)) as sources:
            written = export.write(strict=request.strict, before_rename=before_rename, report=report)
            fingerprint = fingerprint_of(digests["output"])
            meta = _meta(request, export, written, fingerprint, sources())
            _write_text(fingerprint_file, fingerprint + "\n")
            _write_text(meta_file, json.dumps(meta, indent=2) + "\n")
    finally:
        export.close()
    return ExportResult(gguf, fingerprint_file, meta_file, meta, written.notes)


def _read_files(export: GGUFExport) -> list[Path]:
    """Return the files that the export reads, without the tokenizer."""
    directory = export.source.path
    described = [directory / name for name in _DESCRIPTIONS if (directory / name).is_file()]
    return [*described, *export.source.checkpoint.files]


@contextmanager
def _background_digests(files: list[Path]) -> Iterator[Callable[[], dict[str, str]]]:
    """Hash files on another thread while the block runs; the yielded function waits for the digests, by name."""
    with ThreadPoolExecutor(1, thread_name_prefix="sha256") as pool:
        digests = {file.name: pool.submit(sha256_file, file) for file in files}
        try:
            yield lambda: {name: digest.result() for name, digest in digests.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    """Make a folder, and remove what was made if the block fails."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BitNetError(f"{path}: cannot be made ({error.strerror}); name another folder") from error
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # somebody else uses it by now
                folder.rmdir()
        raise


def _meta(
    request: ExportRequest, export: GGUFExport, written: Written, fingerprint: str, sources: dict[str, str]
) -> dict[str, Any]:
    """Return the record of an export; only its date does not depend on the input."""
    return {
        "source": request.hf_repo or str(request.directory),
        "source_revision": request.revision,
        "source_sha256": sources,
        "tokenizer": export.tokenizer.name,
        "tokenizer_sha256": sha256_file(export.tokenizer),
        "converter": CONVERTER,
        "converter_version": importlib.metadata.version("bitnet-numba"),
        "output": export.plan.path.name,
        "size_bytes": export.plan.file_size,
        "fingerprint": fingerprint,
        "export_date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "format": "gguf_v3",
        "precision": request.type,
        "layernorm_format": "float_preserved",
        "layernorm_enforcement": "automatic",
        "tensors": written.n_tensors,
        "quantized_tensors": 0 if is_float(TYPES[request.type]) else written.n_linear,
        "excluded_tensors": written.n_tensors - written.n_linear,
        "notes": list(written.notes),
    }


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())
