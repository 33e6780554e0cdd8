"""Digests of the hidden states that an answer was sampled from: what a receipt says of the computation.

The final hidden state decides every logit, so whoever computes the same bits chooses the same tokens. One digest covers
``POSITIONS_PER_LEAF`` positions, so that a stretch of a long answer can be checked without the rest.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

POSITIONS_PER_LEAF = 16
_LEAF = b"\x00"  # RFC 6962, section 2.1: what is hashed for a leaf begins so, for an inner node with 1


class HiddenDigest:
    """Takes the hidden state of each position that a token was sampled from, in order."""

    def __init__(self) -> None:
        self._leaves: list[bytes] = []
        self._n_open = 0
        self._open = hashlib.sha256(_LEAF)

    def add(self, hidden: NDArray[np.float32]) -> None:
        """Append a position's final normed hidden state, float32[hidden_size]: its bits, little-endian."""
        self._open.update(np.ascontiguousarray(hidden, "<f4").data)
        self._n_open += 1
        if self._n_open == POSITIONS_PER_LEAF:
            self._leaves.append(self._open.digest())
            self._n_open, self._open = 0, hashlib.sha256(_LEAF)

    def leaves(self) -> list[str]:
        """Return the SHA-256 of each ``POSITIONS_PER_LEAF`` positions, the last one of what remains, in hexadecimal."""
        digests = [*self._leaves, *([self._open.digest()] if self._n_open else [])]
        return [digest.hex() for digest in digests]
