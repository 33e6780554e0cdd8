"""The command line of bitnet-numba."""
