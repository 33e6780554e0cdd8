"""Compiled kernels of bitnet-numba; ``kernels.json`` lists them, and the SHA-256 of each."""
