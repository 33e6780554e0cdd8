"""The exact head against the full one: candidates are what a query needs, with the bits of all logits."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_numba.backends.cpu.backend import CPUBackend
from bitnet_numba.backends.cpu.kernels.registry import counted
from bitnet_numba.backends.protocol import CandidateQuery, Candidates, TokenChunk
from bitnet_numba.formats.gguf import TensorType
from bitnet_numba.options import HEAD_MODES
from tests.backends.cpu.kernels import twins as reference
from tests.generate.running import cpu_backend, logits_of
from tests.tiny import toy_model

VOCAB = 301
SEEDS = st.integers(0, 2**32 - 1)


@dataclass(frozen=True)
class Heads:
    """One model with each head mode."""

    exact: CPUBackend
    full: CPUBackend


OTHER_TYPES = [pytest.param(kind, marks=pytest.mark.slow) for kind in (TensorType.BF16, TensorType.F32)]


@pytest.fixture(scope="module", params=[TensorType.F16, *OTHER_TYPES], ids=lambda kind: kind.name)
def heads(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heads]:
    folder = tmp_path_factory.mktemp("heads")
    path = toy_model(embedding_type=request.param, vocab_size=VOCAB).gguf().write(folder / "toy.gguf")
    backends = [cpu_backend(path, head=head) for head in HEAD_MODES]
    yield Heads(*backends)
    for backend in backends:
        backend.close()


def candidates_of(backend: CPUBackend, seed: int, query: CandidateQuery | None, n_logits: int = 1) -> list[Candidates]:
    """Return the logits of the last positions of a random text."""
    tokens = np.random.default_rng(seed).integers(0, VOCAB, 5)
    [rows] = backend.forward([TokenChunk(tokens, backend.new_cache(5), n_logits, query)])
    return rows


@given(
    n_best=st.sampled_from([0, 1, 2, 40]),
    margin=st.sampled_from([0.0, 0.5, 3.0, math.inf]),
    temperature=st.sampled_from([0.0, 1e-300, 0.3, 1.0, 5.0]),
    n_always=st.sampled_from([0, 3]),
    n_logits=st.integers(1, 5),
    seed=SEEDS,
)
def test_candidates_are_needed_ones_with_the_bits_of_all_logits(
    heads: Heads, n_best: int, margin: float, temperature: float, n_always: int, n_logits: int, seed: int
) -> None:
    always = np.zeros(VOCAB if n_always else 0, np.uint8)
    always[np.random.default_rng(seed).integers(0, VOCAB, n_always)] = 1
    query = CandidateQuery(n_best, margin, always, temperature)
    found, full = (candidates_of(backend, seed, query, n_logits) for backend in (heads.exact, heads.full))
    assert len(found) == len(full) == n_logits
    for row, expected in zip(found, full, strict=True):
        assert expected.ids is None
        ids = np.arange(VOCAB) if row.ids is None else row.ids
        assert (np.diff(ids) > 0).all()
        np.testing.assert_array_equal(row.logits, expected.logits[ids])
        mask = always.astype(bool) if always.size else np.zeros(VOCAB, bool)
        assert set(np.flatnonzero(reference.needed_logits(expected.logits, n_best, margin, mask))) <= set(ids.tolist())
        excluded = np.delete(expected.logits, ids).astype(np.float64)
        assert (excluded < row.threshold).all() or not excluded.size
        if temperature:
            assert np.exp((excluded - row.threshold) / temperature).sum() <= row.tail_mass * (1 + 1e-12)


def test_a_partial_query_computes_few_rows(heads: Heads) -> None:
    before = heads.exact.counts(), heads.full.counts()
    [exact] = candidates_of(heads.exact, 1, CandidateQuery(n_best=1))
    [full] = candidates_of(heads.full, 1, CandidateQuery(n_best=1))
    assert 1 <= exact.rescored_rows == exact.logits.size < VOCAB / 4
    assert exact.is_partial
    assert (full.rescored_rows, full.is_partial) == (0, False)
    kernels = counted(heads.exact.counts() - before[0])
    assert kernels["head_rescore"] == 1
    kernels = counted(heads.full.counts() - before[1])
    assert not any("screen" in kernel for kernel in kernels)
    assert {kernel.partition("_head")[0] for kernel in kernels if "head_gemv" in kernel} <= {"f16", "bf16", "f32"}


@pytest.mark.parametrize("query", [None, CandidateQuery()])
def test_all_logits_are_exact_with_every_head(heads: Heads, query: CandidateQuery | None) -> None:
    text = np.arange(20, dtype=np.int32)
    np.testing.assert_array_equal(logits_of(heads.exact, text), logits_of(heads.full, text))
    [exact], [full] = (candidates_of(backend, 2, query) for backend in (heads.exact, heads.full))
    np.testing.assert_array_equal(exact.logits, full.logits)
    assert (exact.ids, exact.rescored_rows) == (None, 0)


def test_heads_that_are_int8_already_have_no_copy(tmp_path: Path) -> None:
    model = cpu_backend(toy_model(embedding_type=TensorType.Q8_0, vocab_size=VOCAB).gguf().write(tmp_path / "toy.gguf"))
    assert model.weights.head_int8.size == 0
    [row] = candidates_of(model, 0, CandidateQuery(n_best=1))
    assert (row.ids, row.rescored_rows) == (None, 0)
    assert counted(model.counts())["int8_head_gemv"] == 1
