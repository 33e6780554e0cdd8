"""A Hugging Face checkpoint as a GGUF file: the same input gives the same bytes, or an error and no file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_numba.errors import BitNetError, FormatError, UnsupportedError
from bitnet_numba.export.json_file import read_json
from bitnet_numba.export.metadata import check_read_back, config_metadata
from bitnet_numba.export.quantization import FILE_TYPES, is_quantized
from bitnet_numba.export.special_tokens import special_token_metadata
from bitnet_numba.export.tensors import ModelTensors
from bitnet_numba.export.vocabulary import read_vocabulary
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.gguf_writer import Plan, Report, plan_gguf, write_plan
from bitnet_numba.model.hf_source import HuggingFaceSource
from bitnet_numba.model.roles import Role

QUANTIZATION_VERSION = 2


@dataclass(frozen=True, slots=True)
class Written:
    """What a file holds.

    Attributes
    ----------
    n_tensors : int
    n_linear : int
        Those that a ternary file holds as ternary weights.
    notes : tuple of str
        What of the checkpoint is not in the file, or not exactly.
    """

    n_tensors: int
    n_linear: int
    notes: tuple[str, ...]


class GGUFExport:
    """A checkpoint, read and checked as far as that goes without its weights, and the plan of its file.

    Parameters
    ----------
    directory : Path
        With ``config.json``, ``tokenizer.json`` and safetensors files: bf16, f16 or f32 master weights, or packed
        ternary ones.
    out : Path
        Where the file goes.
    stored : TensorType
        Of the linear layers.
    name : str, optional
        The model's name in the file; its architecture by default, so that the name of a folder changes no byte.
    tokenizer : Path, optional
        A ``tokenizer.json`` elsewhere.

    Raises
    ------
    FormatError
        If the checkpoint contradicts itself.
    UnsupportedError
        If the model's family, or its tokenizer, is not exported.
    BitNetError
        If a file is missing.
    """

    def __init__(
        self, directory: Path, out: Path, stored: TensorType, *, name: str | None = None, tokenizer: Path | None = None
    ) -> None:
        if not directory.is_dir():
            raise BitNetError(f"{directory}: is no folder with a checkpoint; quantize takes GGUF files")
        self.source = HuggingFaceSource(directory)
        self.tokenizer = tokenizer or directory / "tokenizer.json"
        self._notes = _left_out(self.source)
        self._tensors = ModelTensors(self.source, stored)
        self.plan: Plan = plan_gguf(out, self._metadata(stored, name), self._tensors.sources())

    def write(
        self,
        *,
        strict: bool = False,
        before_rename: Callable[[Path], None] | None = None,
        report: Report | None = None,
    ) -> Written:
        """Write the file, one tensor at a time in memory.

        Parameters
        ----------
        strict : bool
            Whether to refuse what would otherwise be noted.
        before_rename : callable with a Path, optional
            See :func:`~bitnet_numba.files.atomic_write`.
        report : callable with a Progress, optional
            Called after each part that is written.

        Raises
        ------
        FormatError
            If a weight is not finite; an older file is then as it was.
        UnsupportedError
            If a value is beyond the type, or ``strict`` refuses what was noted.
        BitNetError
            If the file cannot be written.
        """

        def finish(temporary: Path) -> None:
            _refuse_notes(self.source.path, self._all_notes() if strict else ())
            if before_rename is not None:
                before_rename(temporary)

        _refuse_notes(self.source.path, self._notes if strict else ())
        write_plan(self.plan, finish, report)
        roles = self.source.names
        return Written(len(self.plan.tensors), sum(map(is_quantized, roles)), self._all_notes())

    def close(self) -> None:
        """Give the files back."""
        self.source.close()

    def _metadata(self, stored: TensorType, name: str | None) -> dict[str, Any]:
        directory, config = self.source.path, self.source.config
        tokenizer = read_json(self.tokenizer)
        vocabulary = read_vocabulary(tokenizer, config.vocab_size)
        metadata = {
            "general.architecture": config.architecture,
            "general.name": name or config.architecture,
            **config_metadata(config),
            "general.file_type": FILE_TYPES[stored],
            "general.quantization_version": QUANTIZATION_VERSION,
            **vocabulary.metadata(),
            **special_token_metadata(directory, read_json(directory / "config.json"), tokenizer, vocabulary),
        }
        check_read_back(directory, config, metadata)
        return metadata

    def _all_notes(self) -> tuple[str, ...]:
        rounded = list(self._tensors.rounded)
        if not rounded:
            return self._notes
        return (
            *self._notes,
            f"{len(rounded):,} of the tensors had values rounded to what the type can hold, first {rounded[0]!r}",
        )


def export_gguf(
    directory: Path, out: Path, stored: TensorType = TensorType.I2_S, *, name: str | None = None
) -> Written:
    """Write a checkpoint as one GGUF file; parameters and errors are those of :class:`GGUFExport`."""
    export = GGUFExport(directory, out, stored, name=name)
    try:
        return export.write()
    finally:
        export.close()


def _left_out(source: HuggingFaceSource) -> tuple[str, ...]:
    """Tell what of the checkpoint stays behind; a head that is the embedding once more is not needed twice."""
    notes = []
    checkpoint, names = source.checkpoint, source.names
    head = names.get(Role("output"))
    if source.tied and head is not None:
        embedding = names[Role("token_embd")]
        if not _are_equal(source, head, embedding):
            raise FormatError(
                f"{source.path}: tensor {head!r} differs from {embedding!r}, but config.json ties them; "
                "set tie_word_embeddings to what the model was trained with"
            )
        notes.append(f"tensor {head!r} is left out: it is {embedding!r} once more")
    buffers = sorted(checkpoint.tensors.keys() - set(names.values()))
    if buffers:
        notes.append(f"{len(buffers):,} of the tensors are left out, which config.json tells too, first {buffers[0]!r}")
    return tuple(notes)


def _are_equal(source: HuggingFaceSource, name: str, other: str) -> bool:
    """Compare two tensors of a checkpoint byte by byte."""
    first, second = source.checkpoint.raw(name), source.checkpoint.raw(other)
    equal = first.dtype == second.dtype and first.shape == second.shape
    rows = 1 << 12
    for start in range(0, len(first) if equal else 0, rows):
        equal = equal and first[start : start + rows].tobytes() == second[start : start + rows].tobytes()
        source.checkpoint.forget_pages()
    return equal


def _refuse_notes(place: Path, notes: tuple[str, ...]) -> None:
    if notes:
        raise UnsupportedError(f"{place}: {notes[0]}; run without strict mode, or ask for another type")
