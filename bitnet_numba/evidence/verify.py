"""Verification of a receipt by itself, without a model: its form, its claims, and whether its numbers agree.

What only a computation can show, that these tokens come from this model, is for
:func:`~bitnet_numba.evidence.replay.replay`.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator, ValidationError, validators

from bitnet_numba.errors import EvidenceError
from bitnet_numba.evidence.claims import Finding, check_claims
from bitnet_numba.evidence.consistency import check_consistency
from bitnet_numba.evidence.documents import dump, read_document

OWN_FIELDS = frozenset(
    ("hidden_root", "hidden_leaves", "token_ids", "prompt_token_ids", "prompt_sha256", "text_sha256", "kernel_calls")
)
"""A receipt with one of these fields is of this program, and must follow its schema to the byte."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The verdict on one receipt.

    Attributes
    ----------
    receipt : dict
    findings : tuple of Finding
        Every reason to reject it; none if it passes.
    is_replayable : bool
        Whether it holds tokens and digests that a replay can check. A receipt of another program lists kernels, and
        proves no token.
    """

    receipt: dict[str, Any]
    findings: tuple[Finding, ...]
    is_replayable: bool

    @property
    def passed(self) -> bool:
        """Whether there is no reason to reject it."""
        return not self.findings

    def require(self, place: str) -> None:
        """Raise EvidenceError with every reason, unless it passed."""
        if self.findings:
            raise EvidenceError(f"{place}: {'; '.join(map(str, self.findings))}")


def verify_receipt(path: Path, *, require_gpu: bool = False, require_quantized: bool = False) -> Verification:
    """Verify a receipt of this or another program; EvidenceUnreadableError if the file is no JSON object."""
    receipt, data = read_document(path)
    return verify_document(receipt, data, require_gpu=require_gpu, require_quantized=require_quantized)


def verify_document(
    receipt: dict[str, Any], data: bytes, *, require_gpu: bool = False, require_quantized: bool = False
) -> Verification:
    """Verify a parsed receipt with the bytes that it was read from."""
    findings = list(check_claims(receipt, require_gpu=require_gpu, require_quantized=require_quantized))
    is_own = not OWN_FIELDS.isdisjoint(receipt)
    if is_own:
        form = list(_check_form(receipt))
        findings += form
        if not form:  # the numbers have their types
            if dump(receipt) != data:
                findings.append(Finding("file", "is not in the canonical form, so it was edited"))
            findings += check_consistency(receipt)
    return Verification(receipt, tuple(dict.fromkeys(findings)), is_own)


# ---- the form --------------------------------------------------------------------------------------------------------
def receipt_schema() -> dict[str, Any]:
    """Return the JSON Schema of this program's receipts."""
    schema: dict[str, Any] = json.loads((files("bitnet_numba.evidence") / "receipt.schema.json").read_text("utf-8"))
    return schema


def _check_form(receipt: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield each violation of the schema: unknown and missing fields, values of another type or out of range."""
    for error in _validator().iter_errors(receipt):
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        message = error.message if len(error.message) <= 160 else f"{error.message[:160]}..."
        yield Finding(place.removeprefix(".") or "receipt", message)
    yield from _check_order("receipt", receipt, receipt_schema())


def _check_order(place: str, value: object, schema: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield each object whose fields are out of order: that of the schema, or by name where that does not list them."""
    if not isinstance(value, Mapping):
        return
    listed: Mapping[str, Any] = {} if "patternProperties" in schema else schema.get("properties", {})
    order = [name for name in listed if name in value] if listed else sorted(value)
    if place != "sampling" and order != [name for name in value if not listed or name in listed]:
        yield Finding(place, "its fields are out of order")
    for name, inner in value.items():
        yield from _check_order(name, inner, listed.get(name, {}))


@functools.cache
def _validator() -> Any:
    """Return a validator for which 1.0 is no whole number and 1 no float: each number has one way to be written."""
    return validators.extend(Draft7Validator, {"type": _check_type})(receipt_schema())


def _check_type(
    validator: Any, types: str | list[str], value: object, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    """Do what the keyword ``type`` does, but tell whole numbers from floats by how they are written."""
    exact = {"integer": int, "number": float}
    named = [types] if isinstance(types, str) else types
    if not any(type(value) is exact[t] if t in exact else validator.is_type(value, t) for t in named):
        yield ValidationError(f"{value!r} is not of type {' or '.join(map(repr, named))}")
