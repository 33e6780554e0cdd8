"""The registry of kernels: each one is documented, has a twin that a test compares it with, and counts itself."""

from pathlib import Path

import numpy as np
import pytest

from bitnet_numba.backends.cpu.backend import CPUBackend
from bitnet_numba.backends.cpu.compiler.jit import jit
from bitnet_numba.backends.cpu.kernels.registry import KERNEL_IDS, Counts, Kernel, counted, new_counts
from bitnet_numba.backends.cpu.kernels.softmax import softmax
from bitnet_numba.backends.cpu.simd import cpu
from bitnet_numba.backends.protocol import CandidateQuery, TokenChunk
from bitnet_numba.formats.gguf import TensorType
from tests.docs.markdown import ROOT
from tests.generate.running import cpu_backend
from tests.tiny import toy_model

# NumPy twin of each kernel; of the candidate filter, of what its bounds and its choice rest on
TWINS = {
    Kernel.TERNARY_GEMV: "ternary_product",
    Kernel.TERNARY_GEMM: "ternary_product",
    Kernel.TERNARY_GEMM_TILES: "ternary_product",
    Kernel.QUANTIZE_ABSMAX: "quantize_absmax",
    Kernel.RMS_NORM: "rms_norm",
    Kernel.ROPE: "rope",
    Kernel.KV_CACHE_UPDATE: "store_rows",
    Kernel.ATTENTION: "attend",
    Kernel.FFN_RELU2: "gated_relu2",
    Kernel.FFN_SILU: "gated_silu",
    Kernel.EMBEDDING: "embedding",
    Kernel.HEAD_F16: "head_product",
    Kernel.HEAD_BF16: "head_product",
    Kernel.HEAD_F32: "head_product",
    Kernel.HEAD_INT8: "head_product",
    Kernel.HEAD_FILTER: "quantize_rows",
    Kernel.HEAD_RESCORE: "needed_logits",
    Kernel.SOFTMAX: "softmax",
}
HEADS = {
    TensorType.F16: Kernel.HEAD_F16,
    TensorType.BF16: Kernel.HEAD_BF16,
    TensorType.F32: Kernel.HEAD_F32,
    TensorType.Q8_0: Kernel.HEAD_INT8,
}
IN_EVERY_STEP = {
    Kernel.QUANTIZE_ABSMAX,
    Kernel.RMS_NORM,
    Kernel.ROPE,
    Kernel.KV_CACHE_UPDATE,
    Kernel.ATTENTION,
    Kernel.EMBEDDING,
}


def test_numbers_are_indices_and_ids_are_unique() -> None:
    assert [int(kernel) for kernel in Kernel] == list(range(len(Kernel)))
    assert list(KERNEL_IDS) == list(Kernel)
    assert len(set(KERNEL_IDS.values())) == len(Kernel)


def test_only_kernels_that_ran_are_counted() -> None:
    counts = new_counts()
    assert counted(counts) == {}
    counts[Kernel.ROPE] += 3
    counts[Kernel.HEAD_F16] += 1
    assert counted(counts) == {"rope_forward": 3, "f16_head_gemv": 1}


@jit
def count_all(counts: Counts, n: int) -> None:
    counts[Kernel.TERNARY_GEMV] += n
    counts[Kernel.SOFTMAX if n > 1 else Kernel.ROPE] += 1


def test_jitted_code_counts_by_the_numbers_of_the_enum() -> None:
    counts = new_counts()
    count_all(counts, 5)
    count_all(counts, 1)
    expected = {Kernel.TERNARY_GEMV: 6, Kernel.SOFTMAX: 1, Kernel.ROPE: 1}
    assert {kernel: counts[kernel] for kernel in Kernel if counts[kernel]} == expected


@pytest.mark.parametrize("kernel", Kernel, ids=lambda kernel: kernel.name)
def test_every_kernel_is_documented(kernel: Kernel) -> None:
    page = (ROOT / "docs" / "reference" / "kernels.md").read_text("utf-8")
    isa = cpu.vector_isa() if cpu.has_tiles() else cpu.isa()
    assert f"| `{KERNEL_IDS[kernel]}` |" in page.replace("{isa}", isa).replace("{vectors}", cpu.vector_isa())


@pytest.mark.parametrize("kernel", Kernel, ids=lambda kernel: kernel.name)
def test_every_kernel_is_compared_with_its_twin(kernel: Kernel) -> None:
    tests = [path.read_text("utf-8") for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    assert any(f"reference.{TWINS[kernel]}(" in text for text in tests)


def kernels_of_step(backend: CPUBackend, n_tokens: int, query: CandidateQuery | None = None) -> set[Kernel]:
    before = backend.counts()
    tokens = np.arange(n_tokens, dtype=np.int32)
    backend.forward([TokenChunk(tokens, backend.new_cache(n_tokens), 1, query)])
    return {kernel for kernel in Kernel if (backend.counts() - before)[kernel]}


@pytest.mark.parametrize("architecture", ["bitnet-b1.58", "llama"])
@pytest.mark.parametrize(
    "head_type",
    [pytest.param(kind, marks=() if kind is TensorType.F16 else pytest.mark.slow) for kind in HEADS],  # each compiles
    ids=lambda head_type: head_type.name,
)
def test_exactly_the_kernels_that_run_are_counted(head_type: TensorType, architecture: str, tmp_path: Path) -> None:
    backend = cpu_backend(toy_model(architecture, embedding_type=head_type).gguf().write(tmp_path / "toy.gguf"))
    is_relu2 = backend.config.activation == "relu2"
    layers = IN_EVERY_STEP | {Kernel.FFN_RELU2 if is_relu2 else Kernel.FFN_SILU}
    many = Kernel.TERNARY_GEMM_TILES if cpu.has_tiles() else Kernel.TERNARY_GEMM
    for n_tokens, product in ((1, Kernel.TERNARY_GEMV), (3, Kernel.TERNARY_GEMM), (20, many)):
        assert kernels_of_step(backend, n_tokens) == layers | {product, HEADS[head_type]}
    one_pass = {HEADS[head_type]} if head_type is TensorType.Q8_0 else {Kernel.HEAD_FILTER, Kernel.HEAD_RESCORE}
    assert kernels_of_step(backend, 1, CandidateQuery(n_best=1)) == layers | {Kernel.TERNARY_GEMV} | one_pass


def test_these_steps_and_a_softmax_run_every_kernel() -> None:
    counts, x = new_counts(), np.ones(5, np.float32)
    softmax(x, x, counts)
    assert counts[Kernel.SOFTMAX] == counts.sum() == 1
    gates, products = {Kernel.FFN_RELU2, Kernel.FFN_SILU}, {Kernel.TERNARY_GEMV, Kernel.TERNARY_GEMM}
    elsewhere = {Kernel.SOFTMAX, Kernel.TERNARY_GEMM_TILES}  # tiles: test_tiles.py, on every CPU
    heads = {*HEADS.values(), Kernel.HEAD_FILTER, Kernel.HEAD_RESCORE}
    assert IN_EVERY_STEP | gates | products | heads | elsewhere == set(Kernel)
