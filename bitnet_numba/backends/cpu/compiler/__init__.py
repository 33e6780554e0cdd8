"""How kernels are compiled by Numba, and the cache on disk that keeps the machine code."""
