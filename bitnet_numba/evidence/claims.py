"""Checks of what a receipt claims about its kernels, for receipts of any program with schema 1.0.

The rules are those that BitNet tools share: real computation, kernels that ran, and kernels that fit the backend.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from bitnet_numba.errors import excerpt, printable

SCHEMA_VERSIONS = ("1.0.0", "1.0")
MAX_KERNELS = 10_000
MAX_KERNEL_BYTES = 128

_GPU_KERNEL = re.compile(r"gemm_|wmma_|cublas_|cutlass_|cuda_|tl1_gpu_|tl2_gpu_|i2s_(quantize|dequantize)$")
_QUANTIZED_PREFIXES = ("i2s_", "tl1_", "tl2_", "tq1_", "tq2_")
_FALLBACK_PREFIXES = ("fp32_", "fallback_", "dequant_")
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_OLDEST = datetime(2020, 1, 1, tzinfo=UTC)  # before any ternary model
_CLOCK_SKEW = timedelta(days=1)


class Finding(NamedTuple):
    """A reason to reject a receipt: the field, and what is wrong with it."""

    field: str
    problem: str

    def __str__(self) -> str:
        return printable(f"{self.field}: {self.problem}")


def check_claims(receipt: Mapping[str, Any], *, require_gpu: bool, require_quantized: bool) -> Iterator[Finding]:
    """Yield each claim that does not hold."""
    version = receipt.get("schema_version")
    if version is None:
        yield Finding("schema_version", "is missing")
    elif version not in SCHEMA_VERSIONS:
        yield Finding("schema_version", f"is {excerpt(version)}, known are {' and '.join(SCHEMA_VERSIONS)}")
    path = receipt.get("compute_path")
    if path != "real":
        yield Finding("compute_path", f"is {excerpt(path)}, expected 'real'")
    yield from _check_timestamp(receipt.get("timestamp"))
    baseline = receipt.get("performance_baseline")
    for place, figures in (("", receipt), ("performance_baseline.", baseline)):
        if isinstance(figures, Mapping) and figures.get("tokens_generated") == 0 and "stop_token_id" not in receipt:
            yield Finding(f"{place}tokens_generated", "is 0: no work was done")
    kernels = receipt.get("kernels")
    if not isinstance(kernels, list) or not kernels:
        yield Finding("kernels", "the list is empty: nothing was computed")
        return
    hygiene = list(_check_kernel_ids(kernels))
    yield from hygiene
    if not hygiene:
        yield from _check_backend(receipt, kernels, require_gpu=require_gpu, require_quantized=require_quantized)


def is_quantized_kernel(kernel: str) -> bool:
    """Whether an id names a kernel that computes with quantized weights on the CPU."""
    return kernel.startswith(_QUANTIZED_PREFIXES) and not (_GPU_KERNEL.match(kernel) or is_fallback_kernel(kernel))


def is_fallback_kernel(kernel: str) -> bool:
    """Whether an id names a kernel that computes with dequantized weights."""
    return kernel.startswith(_FALLBACK_PREFIXES) or kernel == "matmul_f32" or kernel.endswith("_dequant")


def _check_kernel_ids(kernels: list[Any]) -> Iterator[Finding]:
    if len(kernels) > MAX_KERNELS:
        yield Finding("kernels", f"{len(kernels):,} ids, at most {MAX_KERNELS:,} are possible")
        return
    for index, kernel in enumerate(kernels):
        place = f"kernels[{index}]"
        if not isinstance(kernel, str) or not kernel.strip():
            yield Finding(place, "is no name of a kernel, or blank")
        elif len(kernel.encode("utf-8", "surrogatepass")) > MAX_KERNEL_BYTES:
            yield Finding(place, f"has more than {MAX_KERNEL_BYTES} bytes")
        elif "mock" in kernel.lower():
            yield Finding(place, f"{excerpt(kernel)} is a mock")


def _check_backend(
    receipt: Mapping[str, Any], kernels: list[str], *, require_gpu: bool, require_quantized: bool
) -> Iterator[Finding]:
    backend = receipt.get("backend", "cpu")
    is_quantized = any(map(is_quantized_kernel, kernels))
    if (backend == "cuda" or require_gpu) and not any(map(_GPU_KERNEL.match, kernels)):
        yield Finding("kernels", f"no GPU kernel ran, and the backend is {excerpt(backend)}")
    if (backend == "cpu" or require_quantized) and not is_quantized:
        yield Finding("kernels", f"no quantized CPU kernel ran, and the backend is {excerpt(backend)}")
    if backend not in ("cpu", "cuda"):
        yield Finding("backend", f"is {excerpt(backend)}, known are cpu and cuda")
    fallbacks = sorted(filter(is_fallback_kernel, kernels))
    if fallbacks and (is_quantized or _claims_quantization(receipt)):
        yield Finding(
            "kernels", f"{excerpt(fallbacks[0])} computes with dequantized weights beside a claim of quantized ones"
        )


def _claims_quantization(receipt: Mapping[str, Any]) -> bool:
    info = receipt.get("model_info")
    named = info.get("quantization_type") if isinstance(info, Mapping) else receipt.get("quantization")
    return isinstance(named, str) and named.lower() not in ("", "none", "f16", "f32", "bf16")


def _check_timestamp(stamp: object) -> Iterator[Finding]:
    if stamp is None:  # some older tools write none
        return
    matched = _TIMESTAMP.fullmatch(stamp) if isinstance(stamp, str) else None
    try:
        moment = datetime.fromisoformat(matched[1] + matched[3].replace("Z", "+00:00")) if matched else None
    except ValueError:  # such as month 13
        moment = None
    if moment is None:
        yield Finding("timestamp", f"{excerpt(stamp)} is no time as RFC 3339 writes it")
    elif not _OLDEST <= moment <= datetime.now(UTC) + _CLOCK_SKEW:
        yield Finding("timestamp", f"{excerpt(stamp)} lies before 2020 or in the future")
