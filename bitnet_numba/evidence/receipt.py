"""Receipts: what one generation computed, as the engine observed it."""

import hashlib
from datetime import UTC, datetime
from typing import Any

from bitnet_numba.errors import BitNetError
from bitnet_numba.evidence.consistency import sampling_document, token_digest
from bitnet_numba.evidence.facts import ModelIdentity, backend_summary, environment, model_info
from bitnet_numba.evidence.merkle import merkle_root
from bitnet_numba.generate.language_model import LanguageModel
from bitnet_numba.generate.result import GenerationResult

SCHEMA_VERSION = "1.0.0"


def make_receipt(
    model: LanguageModel,
    identity: ModelIdentity,
    result: GenerationResult,
    *,
    warmup_ms: float = 0.0,
    bandwidth_utilization: float | None = None,
) -> dict[str, Any]:
    """Return the receipt of a generation that was recorded.

    Parameters
    ----------
    model : LanguageModel
        The one that ran.
    identity : ModelIdentity
    result : GenerationResult
        With its ``record``.
    warmup_ms : float
        Time spent before the measurement began.
    bandwidth_utilization : float, optional
        Bytes of weights and cache read a second, as a share of what a read test of the same run gave.

    Raises
    ------
    BitNetError
        If the result was not recorded.
    """
    if result.record is None:
        raise BitNetError("a receipt needs what the generation recorded: generate with record=True")
    prompt_ids, params, leaves = result.record.prompt_ids, result.record.params, result.record.hidden_leaves
    receipt: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "compute_path": "real",
        "backend": "cpu",
        "backend_summary": backend_summary(result.isa),
        "kernels": sorted(result.kernels),
        "kernel_calls": dict(sorted(result.kernels.items())),
        "deterministic": params.temperature == 0,
        "environment": environment(result.threads),
        "model_info": model_info(model, identity),
        "tokenizer": {"sha256": identity.tokenizer_sha256, "vocab_size": model.tokenizer.vocab_size},
        "load_options": {"kv_type": model.kv_type, "max_context": model.max_context},
        "prompt_sha256": token_digest(prompt_ids),
        "prompt_tokens": len(prompt_ids),
        "prompt_token_ids": prompt_ids,
        "tokens_requested": params.max_tokens,
        "tokens_generated": len(result.token_ids),
        "token_ids": list(result.token_ids),
        "finish_reason": result.finish_reason,
        "stop_token_id": result.stop_token_id,
        "text_sha256": text_digest(result.text),
        "hidden_root": merkle_root(leaves),
        "hidden_leaves": leaves,
    }
    return receipt | {
        "sampling": sampling_document(params),
        "performance_baseline": _times(result, warmup_ms, bandwidth_utilization),
        "corrections": model.corrections,
    }


def text_digest(text: str) -> str:
    """Return the SHA-256 of an answer's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def _times(result: GenerationResult, warmup_ms: float, bandwidth_utilization: float | None) -> dict[str, Any]:
    n_later = len(result.token_ids) + (result.stop_token_id is not None) - 1
    decode_ms = 1000 * n_later / result.generation_tps if n_later else 0.0
    rounded = {
        "warmup_ms": warmup_ms,
        "prefill_ms": result.first_token_ms,
        "decode_ms": decode_ms,
        "total_ms": result.first_token_ms + decode_ms,
        "tokens_per_second": result.generation_tps,
        "first_token_latency_ms": result.first_token_ms,
        "average_token_latency_ms": decode_ms / n_later if n_later else 0.0,
        "memory_usage_mb": result.peak_memory_mb,
    }
    share = None if bandwidth_utilization is None else round(float(bandwidth_utilization), 4)
    return {name: round(float(value), 3) for name, value in rounded.items()} | {"bandwidth_utilization": share}
