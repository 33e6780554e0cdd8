"""The virtual vector machine: the only rooms that touch Numba's internals."""
