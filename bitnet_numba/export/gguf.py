"""Converter from a Hugging Face checkpoint to a GGUF file: the same input gives the same bytes, or an error.

Everything that can be checked without the weights is, before a byte is written.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_numba.errors import BitNetError, UnsupportedError
from bitnet_numba.export.metadata import check_read_back, config_metadata
from bitnet_numba.export.quantization import is_quantized
from bitnet_numba.export.tensors import ModelTensors
from bitnet_numba.export.vocabulary import special_token_metadata, vocabulary_metadata
from bitnet_numba.formats.gguf_types import TensorType
from bitnet_numba.formats.gguf_writer import Plan, Report, plan_gguf, write_plan
from bitnet_numba.formats.tensor_formats import FORMATS
from bitnet_numba.model.gguf_source import MASTERS_KEY, SCALED_TENSORS_KEY, SCALES_KEY
from bitnet_numba.model.hf_source import HuggingFaceSource
from bitnet_numba.model.roles import Role
from bitnet_numba.text.tokenizer_json import read_tokenizer_file

QUANTIZATION_VERSION = 2


@dataclass(frozen=True, slots=True)
class Written:
    """Counts of a written file, and notes of tensors that were left out or rounded."""

    n_tensors: int
    n_linear: int
    notes: tuple[str, ...]


class GGUFExport:
    """An open checkpoint, checked except for its weights, and the plan of its GGUF file.

    The directory holds ``config.json``, ``tokenizer.json`` (or another ``tokenizer`` is given) and safetensors files:
    bf16, f16 or f32 master weights, or packed ternary ones. ``stored`` is the type of the linear layers, ``name`` the
    model's in the file; by default its architecture, so that the directory's name changes no byte. ``masters`` keeps
    the weights of the training in a file of floats, and marks it.
    """

    def __init__(
        self,
        directory: Path,
        out: Path,
        stored: TensorType,
        *,
        name: str | None = None,
        tokenizer: Path | None = None,
        masters: bool = False,
    ) -> None:
        if not directory.is_dir():
            raise BitNetError(f"{directory}: is no folder with a checkpoint; quantize takes GGUF files")
        self.source = HuggingFaceSource(directory)
        self.tokenizer = tokenizer or directory / "tokenizer.json"
        self._notes = _left_out(self.source)
        self._tensors = ModelTensors(self.source, stored, masters=masters)
        self._fixed_metadata = self._metadata(stored, name) | ({MASTERS_KEY: True} if masters else {})
        self.plan: Plan = plan_gguf(out, self._complete_metadata(), self._tensors.sources())

    def write(
        self,
        *,
        strict: bool = False,
        before_rename: Callable[[Path], None] | None = None,
        report: Report | None = None,
    ) -> Written:
        """Write the file, one tensor at a time in memory; after an error an existing file is unchanged.

        ``strict`` raises an UnsupportedError instead of noting what was left out or rounded; ``before_rename`` is that
        of :func:`~bitnet_numba.files.atomic_write`, ``report`` is called after each part that is written.
        """

        def finish(temporary: Path) -> None:
            _refuse_notes(self.source.path, self._all_notes() if strict else ())
            if before_rename is not None:
                before_rename(temporary)

        _refuse_notes(self.source.path, self._notes if strict else ())
        write_plan(self.plan, finish, report, self._complete_metadata)
        return Written(len(self.plan.tensors), sum(map(is_quantized, self.source.names)), self._all_notes())

    def close(self) -> None:
        """Close the files."""
        self.source.close()

    def _metadata(self, stored: TensorType, name: str | None) -> dict[str, Any]:
        directory, config, template = self.source.path, self.source.config, self.source.chat_template
        file = read_tokenizer_file(self.tokenizer)
        vocabulary = vocabulary_metadata(file, config.vocab_size)
        metadata = {
            "general.architecture": config.architecture,
            "general.name": name or config.architecture,
            **config_metadata(config),
            "general.file_type": FORMATS[stored].file_type,
            "general.quantization_version": QUANTIZATION_VERSION,
            **vocabulary,
            **special_token_metadata(directory, file, vocabulary["tokenizer.ggml.tokens"]),
            **({"tokenizer.chat_template": template} if template else {}),
        }
        check_read_back(directory, config, metadata)
        return metadata

    def _complete_metadata(self) -> dict[str, Any]:
        """Return the metadata with the scales of linear layers in floats, as far as these are known."""
        return self._fixed_metadata | scale_metadata(self._tensors.scales)

    def _all_notes(self) -> tuple[str, ...]:
        rounded = list(self._tensors.rounded)
        if not rounded:
            return self._notes
        return (
            *self._notes,
            f"{len(rounded):,} of the tensors had values rounded to what the type can hold, first {rounded[0]!r}",
        )


def scale_metadata(scales: Mapping[str, float]) -> dict[str, Any]:
    """Return the GGUF keys of exact scales by tensor name; none where there are none."""
    return {SCALED_TENSORS_KEY: list(scales), SCALES_KEY: list(scales.values())} if scales else {}


def export_gguf(
    directory: Path, out: Path, stored: TensorType = TensorType.I2_S, *, name: str | None = None
) -> Written:
    """Write a checkpoint as a GGUF file; parameters and errors as for :class:`GGUFExport`."""
    export = GGUFExport(directory, out, stored, name=name)
    try:
        return export.write()
    finally:
        export.close()


def _left_out(source: HuggingFaceSource) -> tuple[str, ...]:
    """Return a note for each kind of tensor that is left out: a head equal to the tied embedding, and buffers."""
    notes = list(source.notes)
    checkpoint, names = source.checkpoint, source.names
    head = names.get(Role("output"))
    if source.tied and head is not None:
        notes.append(f"tensor {head!r} is left out: it is {names[Role('token_embd')]!r} once more")
    buffers = sorted(checkpoint.tensors.keys() - set(names.values()))
    if buffers:
        notes.append(f"{len(buffers):,} of the tensors are left out, which config.json tells too, first {buffers[0]!r}")
    return tuple(notes)


def _refuse_notes(place: Path, notes: tuple[str, ...]) -> None:
    if notes:
        raise UnsupportedError(f"{place}: {notes[0]}; run without strict mode, or ask for another type")
