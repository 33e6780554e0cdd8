"""What a baseline quotes of the record that an export left beside its file."""

from pathlib import Path
from typing import Final

from bitnet_numba.errors import EvidenceError, excerpt
from bitnet_numba.evidence.documents import read_document
from bitnet_numba.files import exists, fingerprint_of

_QUOTED: Final = (
    "source",
    "source_revision",
    "converter",
    "converter_version",
    "export_date",
    "precision",
    "layernorm_format",
)


def read_export_record(model: Path, sha256: str) -> dict[str, str]:
    """Return what ``<model>.meta.json`` beside a GGUF file says; nothing if there is no such file.

    Raises
    ------
    EvidenceUnreadableError
        If it is no JSON object.
    EvidenceError
        If it is the record of another file than the one with this digest, or a field is no text.
    """
    path = model.with_suffix(".meta.json")
    if model.suffix != ".gguf" or not exists(path):
        return {}
    record, _ = read_document(path)
    if record.get("fingerprint") != fingerprint_of(sha256):
        stated = excerpt(record.get("fingerprint"))
        raise EvidenceError(
            f"{path}: is not the record of {model.name}: its fingerprint is {stated}; export again, or move it away"
        )
    quoted = {name: record[name] for name in _QUOTED if record.get(name) is not None}
    for name, value in quoted.items():
        if not isinstance(value, str):
            raise EvidenceError(f"{path}: {name} is {excerpt(value)}, expected a text; export again")
    return quoted
