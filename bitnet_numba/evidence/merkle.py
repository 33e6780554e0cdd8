"""The Merkle tree over the leaves of a receipt, so that one hash stands for all of them.

References
----------
RFC 6962, "Certificate Transparency", section 2.1: an unbalanced tree splits at the largest power of two.
"""

import hashlib
from collections.abc import Sequence

_NODE = b"\x01"


def merkle_root(leaves: Sequence[str]) -> str:
    """Return the root over at least one leaf; hashes are SHA-256 in 64 lowercase hexadecimal digits."""
    return _root([bytes.fromhex(leaf) for leaf in leaves]).hex()


def _root(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(_NODE + _root(leaves[:left]) + _root(leaves[left:])).digest()
