"""Verification of a receipt by itself, without a model: its form, its claims, and whether its numbers agree.

What only a computation can show, that these tokens come from this model, is for
:func:`~bitnet_numba.evidence.replay.replay`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitnet_numba.errors import EvidenceError
from bitnet_numba.evidence.claims import Finding, check_claims
from bitnet_numba.evidence.consistency import check_consistency
from bitnet_numba.evidence.documents import read_document
from bitnet_numba.evidence.schema import check_form, read_schema

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
        form = check_form(receipt, data, receipt_schema(), "receipt")
        findings += form
        if not any(finding.field != "file" for finding in form):  # the numbers have their types
            findings += check_consistency(receipt)
    return Verification(receipt, tuple(dict.fromkeys(findings)), is_own)


def receipt_schema() -> dict[str, Any]:
    """Return the JSON Schema of this program's receipts."""
    return read_schema("bitnet_numba.evidence", "receipt.schema.json")
