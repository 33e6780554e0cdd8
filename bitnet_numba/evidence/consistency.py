"""Whether the numbers of a receipt of this program agree with each other."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from bitnet_numba.errors import BitNetError
from bitnet_numba.evidence.claims import Finding
from bitnet_numba.evidence.merkle import merkle_root
from bitnet_numba.generate.hidden_digest import POSITIONS_PER_LEAF
from bitnet_numba.options import MAX_DRAFT_TOKENS, SamplingParams

SPEED_TOLERANCE = 0.01  # relative, between tokens/s and the times it follows from
WALL_TOLERANCE = 1.1  # of the memory read beside the benchmark, which varies between runs
MAX_READ_RATE = 2e12  # bytes/s: no CPU reads memory faster
_HEAD_KERNELS = ("f16_head_gemv", "bf16_head_gemv", "f32_head_gemv", "int8_head_gemv", "head_rescore")
_ROUNDING_MS = 0.002  # of times that are written in thousandths
_BITS_PER_WEIGHT = 1.6  # of the densest packing, five ternary weights a byte


_IGNORED_BY_GREEDY: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": None}


def token_digest(token_ids: list[int]) -> str:
    """Return the SHA-256 of token ids as little-endian uint32."""
    return hashlib.sha256(np.asarray(token_ids, "<u4").tobytes()).hexdigest()


def n_sampled(receipt: Mapping[str, Any]) -> int:
    """Return how many tokens were sampled: those of the answer, and the one that ended it."""
    return len(receipt["token_ids"]) + (receipt["stop_token_id"] is not None)


def check_consistency(receipt: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield each disagreement; the receipt follows the schema."""
    yield from _check_tokens(receipt)
    yield from _check_sampling(receipt)
    yield from _check_kernel_calls(receipt)
    yield from _check_times(receipt)
    yield from _check_read_rate(receipt)


def _check_tokens(receipt: Mapping[str, Any]) -> Iterator[Finding]:
    prompt, answer = receipt["prompt_token_ids"], receipt["token_ids"]
    vocab_size, sampled = receipt["model_info"]["vocab_size"], n_sampled(receipt)
    if len(prompt) != receipt["prompt_tokens"]:
        yield Finding("prompt_tokens", f"is {receipt['prompt_tokens']:,}, prompt_token_ids has {len(prompt):,}")
    if token_digest(prompt) != receipt["prompt_sha256"]:
        yield Finding("prompt_sha256", "is not the digest of prompt_token_ids")
    if len(answer) != receipt["tokens_generated"]:
        yield Finding("tokens_generated", f"is {receipt['tokens_generated']:,}, token_ids has {len(answer):,}")
    if not sampled:
        yield Finding("token_ids", "is empty: no work was done")
        return
    if sampled > receipt["tokens_requested"]:
        yield Finding("tokens_requested", f"is {receipt['tokens_requested']:,}, {sampled:,} were sampled")
    if len(prompt) + sampled - 1 > receipt["load_options"]["max_context"]:
        yield Finding("load_options.max_context", "is less than prompt and answer have")
    highest = max((*prompt, *answer, receipt["stop_token_id"] or 0))
    if highest >= vocab_size:
        yield Finding("token_ids", f"token {highest:,} is outside the vocabulary of {vocab_size:,}")
    leaves = receipt["hidden_leaves"]
    if len(leaves) != math.ceil(sampled / POSITIONS_PER_LEAF):
        yield Finding("hidden_leaves", f"has {len(leaves):,} leaves for {sampled:,} sampled tokens")
    elif merkle_root(leaves) != receipt["hidden_root"]:
        yield Finding("hidden_root", "is not the Merkle root of hidden_leaves")


def _check_sampling(receipt: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        params = sampling_params(receipt["sampling"])
    except (BitNetError, TypeError, ValueError) as error:
        yield Finding("sampling", str(error))
        return
    if sampling_document(params) != receipt["sampling"] or not _same_types(
        sampling_document(params), receipt["sampling"]
    ):
        yield Finding("sampling", "is not written as this program writes it")
    if params.max_tokens != receipt["tokens_requested"]:
        yield Finding("tokens_requested", f"is {receipt['tokens_requested']:,}, sampling has {params.max_tokens:,}")
    if receipt["deterministic"] != (params.temperature == 0):
        yield Finding("deterministic", "says greedy and the temperature says sampled, or the other way round")
    if params.temperature and params.seed is None:
        yield Finding("sampling.seed", "is missing, so the draws cannot be made again")


def sampling_document(params: SamplingParams) -> dict[str, Any]:
    """Return sampling parameters as a receipt holds them: those that greedy choice ignores have their defaults."""
    if params.temperature == 0:
        params = replace(params, **_IGNORED_BY_GREEDY)
    values = asdict(params)
    values["logit_bias"] = {str(token): float(bias) for token, bias in sorted(params.logit_bias.items())}
    return {
        name: list(value) if isinstance(value, tuple) else float(value) if _is_float_field(name) else value
        for name, value in values.items()
    }


def sampling_params(document: Mapping[str, Any]) -> SamplingParams:
    """Return the sampling parameters of a receipt; raises as :class:`SamplingParams` does."""
    bias = document.get("logit_bias")
    values = {**document, "logit_bias": {int(token): value for token, value in dict(bias or {}).items()}}
    return SamplingParams(**values)


def _is_float_field(name: str) -> bool:
    return isinstance(SamplingParams.__dataclass_fields__[name].default, float)


def _same_types(first: object, second: object) -> bool:
    """Whether equal values are also of the same types: 1 and 1.0 and true are equal in Python."""
    if isinstance(first, dict) and isinstance(second, dict):
        return list(first) == list(second) and all(map(_same_types, first.values(), second.values()))
    if isinstance(first, list) and isinstance(second, list):
        return all(map(_same_types, first, second))
    return type(first) is type(second)


def _check_kernel_calls(receipt: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare the counts with the steps of a forward pass: so many a layer, so many a step."""
    calls, info = receipt["kernel_calls"], receipt["model_info"]
    if sorted(calls) != receipt["kernels"]:
        yield Finding("kernels", "are not the sorted ids of kernel_calls")
    steps = calls.get("embedding_lookup", 0)
    blocks = steps * info["layers"]
    longest = receipt["prompt_tokens"] + 2 * n_sampled(receipt)  # each step runs a token; an undecided one again
    if not math.ceil(n_sampled(receipt) / (MAX_DRAFT_TOKENS + 1)) <= steps <= longest:
        yield Finding("kernel_calls.embedding_lookup", f"is {steps:,}, which is not how this answer can have been made")
    for kernel in ("rope_forward", "attention_kv_cache_update", "attention_forward"):
        if calls.get(kernel) != blocks:
            yield Finding(
                f"kernel_calls.{kernel}", f"is {calls.get(kernel)}, expected {blocks:,}: once a layer and step"
            )
    activations = [calls.get(f"ffn_{name}_forward", 0) for name in ("relu2", "silu")]
    if sum(activations) != blocks or all(activations):
        yield Finding("kernel_calls.ffn", f"is {sum(activations)}, expected {blocks:,}: once a layer and step")
    if calls.get("quantize_absmax_int8") != 4 * blocks:
        yield Finding("kernel_calls.quantize_absmax_int8", f"expected {4 * blocks:,}: four times a layer and step")
    heads = sum(calls.get(name, 0) for name in _HEAD_KERNELS)
    norms = [calls.get("rmsnorm_forward", 0) - per_layer * blocks for per_layer in (2, 4)]
    if heads not in norms or not 1 <= heads <= steps:
        yield Finding("kernel_calls.rmsnorm_forward", f"does not fit {blocks:,} layers and {heads:,} output heads")
    products = sum(count for kernel, count in calls.items() if kernel.startswith("i2s_"))
    if products != 4 * blocks:
        yield Finding("kernel_calls.i2s", f"are {products:,} products, expected {4 * blocks:,}: four a layer and step")


def _check_times(receipt: Mapping[str, Any]) -> Iterator[Finding]:
    times = receipt["performance_baseline"]
    n_later, decode_ms = n_sampled(receipt) - 1, times["decode_ms"]
    if times["prefill_ms"] <= 0 or (n_later and decode_ms <= 0):
        yield Finding("performance_baseline", "work took no time")
        return
    expected = {
        "total_ms": times["prefill_ms"] + decode_ms,
        "first_token_latency_ms": times["prefill_ms"],
        "average_token_latency_ms": decode_ms / n_later if n_later else 0.0,
        "tokens_per_second": 1000 * n_later / decode_ms if n_later else 0.0,
    }
    for name, value in expected.items():
        if abs(times[name] - value) > max(SPEED_TOLERANCE * value, _ROUNDING_MS):
            yield Finding(f"performance_baseline.{name}", f"is {times[name]:g}, the other figures make it {value:g}")
    if not n_later and decode_ms:
        yield Finding("performance_baseline.decode_ms", "is not 0, and there was one token")


def _check_read_rate(receipt: Mapping[str, Any]) -> Iterator[Finding]:
    """Compare the speed with that of memory: each step reads every ternary weight."""
    times, info = receipt["performance_baseline"], receipt["model_info"]
    share = times["bandwidth_utilization"]
    if share is not None and share > WALL_TOLERANCE:
        yield Finding("performance_baseline.bandwidth_utilization", f"is {share:g}: faster than memory was read")
    hidden, ffn = info["hidden_size"], info["intermediate_size"]
    kv_size = hidden * info["num_key_value_heads"] // info["num_attention_heads"]
    weights = info["layers"] * hidden * (2 * hidden + 2 * kv_size + 3 * ffn)
    steps = receipt["kernel_calls"].get("embedding_lookup", 0)
    seconds = times["total_ms"] / 1000
    if seconds and steps * weights * _BITS_PER_WEIGHT / 8 / seconds > WALL_TOLERANCE * MAX_READ_RATE:
        yield Finding("performance_baseline.total_ms", "is less than any memory takes to give the weights")
