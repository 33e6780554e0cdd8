"""The CPU backend's part in sampling: softmax, exponential and the random draw, each a call of a jitted kernel."""

import math

import numpy as np

from bitnet_numba.backends.cpu.array_types import Bytes, Doubles, Int64s
from bitnet_numba.backends.cpu.kernels import softmax
from bitnet_numba.backends.cpu.kernels.registry import KERNEL_IDS, new_counts
from bitnet_numba.backends.cpu.kernels.sampling import exponential_race_worker, mark_favoured_worker
from bitnet_numba.backends.protocol import Counts, Logits, Rivals

_ALL_IDS = np.zeros(0, np.int64)


class CPUSampling:
    """Fulfils :class:`bitnet_numba.backends.protocol.SamplingOperations`, whose methods say what these do."""

    head: str = "exact"
    kernel_names = tuple(KERNEL_IDS.values())

    def softmax(self, logits: Logits, counts: Counts) -> Logits:
        out = np.empty_like(logits)
        softmax.softmax(logits, out, counts)
        return out

    def exp(self, x: Logits, counts: Counts) -> Logits:
        return softmax.exp(x, counts)

    def mark_favoured(self, random_offset: int, sample_time: float, marks: Bytes) -> None:
        # (k + 0.5) / 2**52 >= 1 - sample_time, solved for the whole number k; exact, in multiples of 0.5
        least_bits = math.ceil((1 - sample_time) * 2**52 - 0.5)
        mark_favoured_worker(np.uint64(random_offset), np.uint64(least_bits), marks)

    def exponential_race(self, weights: Doubles, ids: Int64s | None, random_offset: int) -> Rivals:
        if ids is not None and ids.size != weights.size:
            raise ValueError(f"ids: expected one for each of {weights.size} weights, got {ids.size}")
        indices, uniforms = np.empty(weights.size, np.int64), np.empty(weights.size)
        n = exponential_race_worker(
            weights, _ALL_IDS if ids is None else ids, np.uint64(random_offset), indices, uniforms
        )
        return Rivals(indices[:n], uniforms[:n])

    def compile_sampling(self) -> None:
        """Compile the kernels of sampling, or load them from the kernel cache."""
        one, counts = np.zeros(1, np.float32), new_counts()
        self.softmax(one, counts)
        weights = self.exp(one, counts).astype(np.float64)
        self.mark_favoured(0, 1.0, np.zeros(1, np.uint8))
        self.exponential_race(weights, None, 0)
