"""How good a quantization is: cosine similarity, signal to quantization noise, relative squared error."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums of w^2, w'^2 and (w - w')^2 over weights w and their dequantized values w'."""

    weights: float = 0.0
    dequantized: float = 0.0
    errors: float = 0.0

    @property
    def cosine(self) -> float:
        """Cosine similarity of w and w'; 1 where both are all zero, 0 where one is."""
        if not self.weights or not self.dequantized:
            return float(self.weights == self.dequantized)
        if not self.errors:
            return 1.0
        product = (self.weights + self.dequantized - self.errors) / 2
        return min(product / math.sqrt(self.weights) / math.sqrt(self.dequantized), 1.0)

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization noise in dB; None where the dequantized weights are exact."""
        if not self.errors:
            return None
        return 10 * math.log10(self.weights / self.errors) if self.weights else 0.0

    @property
    def relative_mse(self) -> float:
        """Squared error over the squares of the weights."""
        return self.errors / self.weights if self.weights else 0.0


def total(parts: Iterable[Sums]) -> Sums:
    """Add sums, each correctly rounded."""
    parts = list(parts)
    return Sums(
        math.fsum(part.weights for part in parts),
        math.fsum(part.dequantized for part in parts),
        math.fsum(part.errors for part in parts),
    )


def penalty_db(own: Sums, lagging: Sums) -> float | None:
    """Return by how many dB SQNR falls with a neighbour's parameters; None if it is exact with its own only."""
    before, after = own.sqnr_db, lagging.sqnr_db
    if before is None or after is None:
        return 0.0 if before is after else None
    return before - after
