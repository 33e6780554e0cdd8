"""One benchmark of a model: warm-up, prefill, decode, and a read test of the same run."""

import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bitnet_numba.errors import BitNetError, ParameterError
from bitnet_numba.evidence.facts import ModelIdentity, call_outs, environment
from bitnet_numba.evidence.receipt import make_receipt
from bitnet_numba.generate.language_model import LanguageModel
from bitnet_numba.generate.memory_check import peak_memory_mb
from bitnet_numba.generate.result import GenerationResult

SCHEMA_VERSION: Final = "1.0.0"
_READS: Final = 3  # before the measurement, and as many after it


def run_benchmark(
    model: LanguageModel,
    identity: ModelIdentity,
    *,
    prompt: str = "Once upon a time",
    tokens: int = 128,
    warmup_tokens: int = 10,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a benchmark, and the receipt of its generation.

    Parameters
    ----------
    model : LanguageModel
        Loaded with ``cached_prefixes=0``, so that the prompt is read.
    identity : ModelIdentity
    prompt : str
    tokens : int
        To decode, at least two; end-of-sequence tokens are ignored.
    warmup_tokens : int
        Generated before, at least one: kernels are then compiled, and pages read.

    Raises
    ------
    ParameterError
        If a number is out of range.
    BitNetError
        If fewer tokens were decoded, or no time passed.
    """
    if tokens < 2 or warmup_tokens < 1:
        raise ParameterError(f"tokens={tokens}, warmup_tokens={warmup_tokens}: expected at least 2 and 1")
    started = time.perf_counter()
    model.generate(prompt, max_tokens=warmup_tokens, ignore_eos=True)
    warmup_ms = 1000 * (time.perf_counter() - started)
    peak_mb = peak_memory_mb()  # before the read test takes memory of its own
    read, result = _measured(model, prompt, tokens)
    receipt = make_receipt(model, identity, result, warmup_ms=warmup_ms)
    times = receipt["performance_baseline"]
    _check_work(len(result.token_ids), tokens, times)
    context = result.prompt_tokens + tokens // 2
    rows = result.rescored_rows // tokens if result.head == "exact" else model.config.vocab_size
    needed = bytes_per_token(model.info()["memory"], model.config.vocab_size, rows, context)
    achieved = result.generation_tps * needed / 1e9
    receipt["performance_baseline"]["bandwidth_utilization"] = round(achieved / read, 4)
    n_read = result.prompt_tokens - result.cached_tokens
    benchmark = {
        "schema_version": SCHEMA_VERSION,
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": {
            "file": Path(model.info()["model"]["path"]).name,
            "sha256": identity.sha256,
            "size_bytes": identity.size_bytes,
            **call_outs(model, identity),
        },
        "prompt_tokens": result.prompt_tokens,
        "tokens": tokens,
        "timing": {name: times[name] for name in ("warmup_ms", "prefill_ms", "decode_ms", "total_ms")},
        "performance": {
            "tokens_per_sec": round(result.generation_tps, 3),
            "ms_per_token": times["average_token_latency_ms"],
            "prefill_tokens_per_sec": round(1000 * n_read / times["prefill_ms"], 3),
        },
        "memory": {
            "bytes_per_token": needed,
            "achieved_gb_per_second": round(achieved, 3),
            "read_gb_per_second": round(read, 3),
            "bandwidth_share": round(achieved / read, 4),
            "peak_rss_mb": round(peak_mb, 3),
        },
        "kernels": sorted(result.kernels),
        "machine": dict(sorted({**environment(model.threads), "INSTRUCTION_SET": model.isa}.items())),
    }
    return benchmark, receipt


def bytes_per_token(memory: dict[str, int], vocab_size: int, rows: int, context: int) -> int:
    """Return the bytes that a token must read.

    Parameters
    ----------
    memory : dict of str to int
        Of ``model.info()``.
    vocab_size : int
    rows : int
        Of the head, read in its own format beside its int8 copy.
    context : int
        Positions whose keys and values are read.
    """
    head = memory["head"] or memory["embedding"]  # a tied one has no bytes of its own
    screened = memory["head_int8_copy"] + head * rows // vocab_size
    return memory["ternary_weights"] + screened + context * memory["kv_cache_per_position"]


def _check_work(decoded: int, tokens: int, times: dict[str, Any]) -> None:
    """Refuse a run that did less than was asked, or took no time."""
    if decoded != tokens:
        raise BitNetError(f"{decoded} of {tokens} tokens were decoded: the context is full; ask for fewer")
    if not (times["prefill_ms"] > 0 and times["decode_ms"] > 0):
        raise BitNetError("the clock did not advance during the benchmark; ask for more tokens")


def _measured(model: LanguageModel, prompt: str, tokens: int) -> tuple[float, GenerationResult]:
    """Return the median of read tests before and after a recorded generation, in GB/s, and its result."""
    from bitnet_numba.backends.cpu.threads.read_test import ReadTest  # here, because it compiles

    test = ReadTest(model.threads)
    try:
        reads = [test() for _ in range(_READS)]
        result = model.generate(prompt, max_tokens=tokens, ignore_eos=True, record=True)
        reads += [test() for _ in range(_READS)]
    finally:
        test.close()
    return statistics.median(reads), result
