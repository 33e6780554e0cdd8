"""The CPU backend: Numba kernels on a virtual vector machine, one jitted call a step, on a thread pool of its own."""
