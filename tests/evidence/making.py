"""Receipts of the embedded model, for all tests of evidence."""

import json
from typing import Any

from bitnet_numba import LanguageModel
from bitnet_numba.evidence.documents import dump
from bitnet_numba.evidence.facts import ModelIdentity
from bitnet_numba.evidence.receipt import make_receipt
from bitnet_numba.evidence.verify import Verification, verify_document

PROMPT = "Once upon a time"


def receipt_of(model: LanguageModel, identity: ModelIdentity, prompt: str = PROMPT, **params: Any) -> dict[str, Any]:
    """Generate, and return the receipt as it is read from its file."""
    receipt = make_receipt(model, identity, model.generate(prompt, record=True, **{"max_tokens": 40, **params}))
    copy: dict[str, Any] = json.loads(dump(receipt))
    return copy


def verdict(receipt: dict[str, Any], **flags: bool) -> Verification:
    """Verify a receipt as if it had been read from a file in the canonical form."""
    return verify_document(receipt, dump(receipt), **flags)


def reasons(receipt: dict[str, Any], **flags: bool) -> str:
    return "\n".join(map(str, verdict(receipt, **flags).findings))
