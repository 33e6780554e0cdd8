"""What generation knows of a backend: load a model into one, give it chunks of sequences, get logits back.

A backend is the counterpart of a model runner with its attention backend: it owns weights, KV cache memory and kernels.
Nothing here, and nothing above it, knows of Numba, instruction sets or packed layouts.
"""

import math
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from bitnet_numba.model.config import ModelConfig

Logits = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]

PAGE_POSITIONS = 256  # positions in a page of a KV cache
MAX_STEP_TOKENS = 512  # tokens of one forward pass, all sequences together
MAX_PREFILL_CHUNK = 256  # tokens of one prompt in a step: enough to reuse each weight, few enough to let others join
RANDOM_STEP = 0x9E3779B97F4A7C15  # increment of SplitMix64, the generator of a draw's random numbers


# ---- what goes in ----------------------------------------------------------------------------------------------------
class CandidateQuery(NamedTuple):
    """Which logits of one position the sampler needs; the backend may leave out all others.

    A token is needed if ``always`` marks it, or if its logit is both among the ``n_best`` highest and at most
    ``margin`` below the highest; these two limits look at the tokens that are not marked.

    Attributes
    ----------
    n_best : int
        0 sets no limit.
    margin : float
        Infinity sets no limit.
    always : uint8[vocab_size or 0]
        Not 0 for tokens that a bias or penalty changes, or that the random draw favours.
    temperature : float
        Temperature at which :attr:`Candidates.tail_mass` is bounded; 0: not computed.
    """

    n_best: int = 0
    margin: float = math.inf
    always: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
    temperature: float = 0.0

    @property
    def is_partial(self) -> bool:
        """Whether some logits may be left out."""
        return self.n_best > 0 or self.margin < math.inf


CacheT = TypeVar("CacheT", bound="Cache")


class TokenChunk(NamedTuple, Generic[CacheT]):
    """The tokens of one sequence that a step runs.

    Attributes
    ----------
    tokens : int32[n_tokens]
        At least one; they follow the ``cache.length`` positions in the cache.
    cache : Cache
    n_logits : int
        Number of final tokens to return logits for.
    query : CandidateQuery or None
        Which of these logits are needed; None: all, exactly.
    """

    tokens: npt.NDArray[np.int32]
    cache: CacheT
    n_logits: int = 1
    query: CandidateQuery | None = None


# ---- what comes out --------------------------------------------------------------------------------------------------
class Candidates(NamedTuple):
    """The logits of one position: of all tokens, or of those that a :class:`CandidateQuery` asks for.

    Attributes
    ----------
    logits : float32[n]
        Exact: the bits that computing all logits gives.
    ids : int64[n] or None
        The tokens that these belong to, in ascending order; None: all tokens.
    rescored_rows : int
        Number of logits computed exactly after int8 screening; 0 where all were computed.
    threshold : float
        Every excluded logit is below it; minus infinity: none was excluded.
    tail_mass : float
        Upper bound of the sum of ``exp((logit - threshold) / temperature)`` over the excluded logits.
    hidden : float32[hidden_size]
        The final hidden state after the output norm, from which the head computes the logits.
    """

    logits: Logits
    ids: npt.NDArray[np.int64] | None = None
    rescored_rows: int = 0
    threshold: float = -math.inf
    tail_mass: float = 0.0
    hidden: npt.NDArray[np.float32] = np.zeros(0, np.float32)

    @property
    def is_partial(self) -> bool:
        """Whether logits were excluded."""
        return self.threshold > -math.inf


class Rivals(NamedTuple):
    """The few tokens of an exponential race that may have the smallest sample time; one of them has it.

    Attributes
    ----------
    indices : int64[n]
        Ascending; into the arrays that the race was given.
    uniforms : float64[n]
        Their random numbers u: a token's sample time is ``-ln(u) / weight``.
    """

    indices: npt.NDArray[np.int64]
    uniforms: npt.NDArray[np.float64]


# ---- who does it -----------------------------------------------------------------------------------------------------
class Page(Protocol):
    """A page of KV cache memory, which caches may share."""

    @property
    def nbytes(self) -> int: ...


class Cache(Protocol):
    """Keys and values of one sequence, in pages of ``PAGE_POSITIONS``."""

    @property
    def length(self) -> int:
        """Number of positions that are filled."""
        ...

    @property
    def capacity(self) -> int:
        """Number of positions that it has room for."""
        ...

    @property
    def pages(self) -> Sequence[Page]: ...

    def truncate(self, length: int) -> None:
        """Drop the positions from ``length`` on."""
        ...

    def fork(self, capacity: int, length: int) -> Self:
        """Return a cache that starts with the first ``length`` positions of this one; later writes are not shared."""
        ...

    def resize(self, capacity: int) -> None:
        """Make room for ``capacity`` positions, or give pages back."""
        ...


class SamplingOperations(Protocol):
    """What the sampler has computed by a backend, besides logits; no bit depends on the CPU.

    In the draw at ``random_offset``, token i has the random number ``(k + 0.5) / 2**52``, where k is the top 52 bits of
    what SplitMix64 makes of the state ``random_offset + (i + 1) * RANDOM_STEP`` modulo 2**64 (Steele et al., "Fast
    splittable pseudorandom number generators", 2014).
    """

    @property
    def head(self) -> str:
        """Head mode: "exact" may return candidates, "full" always computes all logits."""
        ...

    @property
    def kernel_names(self) -> Sequence[str]:
        """Ids of the kernels, in the order of all counts."""
        ...

    def softmax(self, logits: Logits, counts: Counts) -> Logits:
        """Return the probabilities of ``float32[n]`` logits; adds to ``counts``."""
        ...

    def exp(self, x: Logits, counts: Counts) -> Logits:
        """Return ``exp(x)`` of ``float32[n]`` numbers up to 0, exactly 0 up to -64; adds to ``counts``."""
        ...

    def mark_favoured(self, random_offset: int, sample_time: float, marks: npt.NDArray[np.uint8]) -> None:
        """Set ``uint8[vocab_size]`` marks of the tokens whose u is at least ``1 - sample_time``; 0 < sample_time <= 1.

        All others have a larger sample time than that, even if they weigh 1.
        """
        ...

    def exponential_race(
        self, weights: npt.NDArray[np.float64], ids: npt.NDArray[np.int64] | None, random_offset: int
    ) -> Rivals:
        """Return the tokens that may have the smallest sample time ``-ln(u) / weight``.

        Of ``float64[n]`` weights from 0 on, at least one above 0 (one of 0 never wins), and ``int64[n]`` ids, or None
        for 0 to n - 1.
        """
        ...


class Backend(SamplingOperations, Protocol[CacheT]):
    """A loaded model that turns tokens into logits."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def max_context(self) -> int:
        """Longest sequence, in positions."""
        ...

    @property
    def threads(self) -> int: ...
    @property
    def threads_reason(self) -> str:
        """What decided the number of threads, as ``info`` shows it."""
        ...

    @property
    def kv_type(self) -> str:
        """Number format of the KV cache."""
        ...

    @property
    def isa(self) -> str:
        """Instruction set of the kernels, as results report it."""
        ...

    def new_cache(self, capacity: int) -> CacheT:
        """Allocate a KV cache; ResourceError where memory or the context is too small."""
        ...

    def forward(self, chunks: Sequence[TokenChunk[CacheT]]) -> list[list[Candidates]]:
        """Run one step: append each chunk to its cache and return its logits, one entry a position.

        At most ``MAX_STEP_TOKENS`` tokens. No bit of a sequence's logits depends on the other chunks. NonFiniteError if
        a number becomes infinite or NaN. If it raises, no cache has changed.
        """
        ...

    def counts(self) -> Counts:
        """Return how often each kernel has run in :meth:`forward` so far, as the code that runs them counts."""
        ...

    def memory(self, prefix_pages: int) -> dict[str, Any]:
        """Return bytes by role, with a prefix cache of up to ``prefix_pages`` pages."""
        ...

    def close(self) -> None:
        """End threads and free weights and scratch memory."""
        ...
