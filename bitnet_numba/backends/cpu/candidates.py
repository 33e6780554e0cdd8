"""Which logits a choice of tokens needs, and by which of its ways the output head computes them."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from bitnet_numba.backends.cpu.kernels.head.bounds import ScreenState
from bitnet_numba.backends.cpu.kernels.head.int8_copy import MAX_HIDDEN, quantize_rows, screen_shape
from bitnet_numba.backends.cpu.kernels.head.int8_filter import HeadRequest
from bitnet_numba.backends.cpu.memory import Allocate, allocate
from bitnet_numba.backends.cpu.threads.thread_pool import ThreadContext, ThreadPool

HeadType = Literal["exact", "f16", "int8"]
HEAD_TYPES: tuple[HeadType, ...] = ("exact", "f16", "int8")

LARGEST_COLDNESS = 2.0**100  # it and its inverse are ordinary float32
WEIGHT_SLACK = 1 + 1e-4  # for the roundings of the kernel's weights, and of the sampler's own

Words = npt.NDArray[np.uint32]
Logits = npt.NDArray[np.float32]
Rows = Logits | list[Logits]  # of several tokens: all logits of each, or those that are known


class NeededLogits(NamedTuple):
    """The logits without which the next token cannot be chosen.

    Attributes
    ----------
    n_best : int
        Those that are among so many highest; 0 sets no limit.
    margin : float
        Those that are at most so much below the highest; infinity sets no limit.
    always : uint8[vocab_size or 0]
        Not 0 for tokens that are needed whatever their logits are; the two limits are about the others.
    temperature : float
        At which the logits that are left out are weighed, for :class:`Screening`; 0: they are not.
    """

    n_best: int = 0
    margin: float = math.inf
    always: npt.NDArray[np.uint8] = np.zeros(0, np.uint8)
    temperature: float = 0.0

    @property
    def is_partial(self) -> bool:
        """Whether some logits may be left out."""
        return self.n_best > 0 or self.margin < math.inf


class Screening(NamedTuple):
    """Which of a token's logits were computed, and what is known of those that were left out.

    Attributes
    ----------
    known : int64[n], optional
        The tokens whose logits were computed, in ascending order; ``None``: all.
    rescored_rows : int
        How many logits were computed exactly after the screening of all; 0 where there was none.
    threshold : float
        The logits that were left out are below it. Minus infinity: none was left out.
    weight : float
        The sum of ``exp((logit - threshold) / temperature)`` over those that were left out is at most this; 0 where
        nobody asked.
    """

    known: npt.NDArray[np.int64] | None = None
    rescored_rows: int = 0
    threshold: float = -math.inf
    weight: float = 0.0

    @property
    def is_partial(self) -> bool:
        """Whether logits were left out."""
        return self.threshold > -math.inf


def screened_rows(state: ScreenState, coldness: npt.NDArray[np.float32]) -> tuple[list[Logits], list[Screening]]:
    """Return what the last screening has left of each of its tokens, which it was to weigh with such ``coldness``."""
    rows, screenings = [], []
    for token, is_weighed in enumerate((coldness >= 0).tolist()):
        count = int(state.rescored[token])
        weight = state.left_out[token].sum(dtype=np.float64) * WEIGHT_SLACK if is_weighed else 0
        known = state.known[token, :count].astype(np.int64)
        rows.append(state.logits[token, :count].copy())
        screenings.append(Screening(known, count, float(state.thresholds[token]), float(weight)))
    return rows, screenings


def request_of(needed: Sequence[NeededLogits], vocab_size: int) -> HeadRequest:
    """Return what some tokens need as the kernel takes it."""
    always = np.zeros((len(needed), vocab_size if any(logits.always.size for logits in needed) else 0), np.uint8)
    for row, logits in zip(always, needed, strict=True):
        if logits.always.size:
            row[:] = logits.always
    return HeadRequest(
        np.array([logits.n_best for logits in needed], np.int64),
        np.array([logits.margin for logits in needed], np.float64),
        always,
        np.array([_coldness(logits.temperature) for logits in needed], np.float32),
    )


def _coldness(temperature: float) -> float:
    """Return what stands for a temperature in a :class:`HeadRequest`: its inverse, or less, which weighs more."""
    if temperature == 0:
        return -1.0
    inverse = min(1 / temperature, LARGEST_COLDNESS)
    return inverse if inverse * LARGEST_COLDNESS >= 1 else 0.0


def no_screen() -> Words:
    """Return the int8 copy of a head that has none."""
    return np.zeros((0, *screen_shape(0, 0)[1:]), np.uint32)


def screen_of(matrix: npt.NDArray[Any], threads: int, allocate: Allocate = allocate) -> Words:
    """Make the int8 copy of a head, if it would be smaller than the head and no exactness stands against it.

    Parameters
    ----------
    matrix : float32, uint16 (float16 bits), int16 (bfloat16 bits) or int8 [vocab_size, hidden_size]
        Of int8, which is small already, no copy is made.
    threads : int
        How many share the work.
    allocate : callable
        Where the memory comes from.

    Returns
    -------
    uint32[n_blocks, 4 + hidden_size // 4, 16]
        As ``quantize_rows`` writes it; no blocks where there is no copy.

    Raises
    ------
    ResourceError
        If the memory is not there.
    """
    if matrix.dtype == np.int8 or matrix.shape[1] > MAX_HIDDEN:
        return no_screen()
    screen = np.asarray(allocate(screen_shape(*matrix.shape), np.uint32, "int8 copy of the head"), np.uint32)
    matrix = matrix.view()
    matrix.flags.writeable = False  # as the kernels see it later: one compilation serves both

    def work(ctx: ThreadContext) -> None:
        quantize_rows(ctx, matrix, screen)

    pool = ThreadPool(threads)
    try:
        pool.run(work)
    finally:
        pool.close()
    return screen
