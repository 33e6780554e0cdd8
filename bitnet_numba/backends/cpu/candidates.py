"""Candidate queries and their answers, translated between the backend protocol and the head kernels' arrays."""

from collections.abc import Sequence

import numpy as np

from bitnet_numba.backends.cpu.array_types import Floats
from bitnet_numba.backends.cpu.kernels.head.bounds import FilterState
from bitnet_numba.backends.cpu.kernels.head.int8_filter import CandidateQueries
from bitnet_numba.backends.protocol import CandidateQuery, Candidates

MAX_BETA = 2.0**100  # largest inverse temperature: it and its reciprocal are normal float32 numbers
TAIL_SLACK = 1 + 1e-4  # covers the roundings of the kernel's exponentials and of the sampler's own


def candidate_queries(queries: Sequence[CandidateQuery], vocab_size: int) -> CandidateQueries:
    """Return the queries as arrays with one row a query."""
    always = np.zeros((len(queries), vocab_size if any(query.always.size for query in queries) else 0), np.uint8)
    for row, query in zip(always, queries, strict=True):
        if query.always.size:
            row[:] = query.always
    return CandidateQueries(
        np.array([query.n_best for query in queries], np.int64),
        np.array([query.margin for query in queries], np.float64),
        always,
        np.array([_beta(query.temperature) for query in queries], np.float32),
    )


def _beta(temperature: float) -> float:
    """Return the inverse temperature, rounded down where float32 is too narrow: a larger bound; -1: no bound asked."""
    if temperature == 0:
        return -1.0
    beta = min(1 / temperature, MAX_BETA)
    return beta if beta * MAX_BETA >= 1 else 0.0


def read_candidates(state: FilterState, queries: Sequence[CandidateQuery], hidden: Floats) -> list[Candidates]:
    """Copy the candidates that the int8 filter left for each query, and hand over its hidden state."""
    candidates = []
    for row, query in enumerate(queries):
        count = int(state.n_candidates[row])
        tail_mass = state.tail_mass[row].sum(dtype=np.float64) * TAIL_SLACK if query.temperature else 0
        candidates.append(
            Candidates(
                logits=state.logits[row, :count].copy(),
                ids=state.candidates[row, :count].astype(np.int64),
                rescored_rows=count,
                threshold=float(state.thresholds[row]),
                tail_mass=float(tail_mass),
                hidden=hidden[row],
            )
        )
    return candidates
