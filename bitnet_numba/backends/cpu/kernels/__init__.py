"""The jitted kernels, one file an operator; each has a NumPy twin in ``backends/numpy/operators.py``."""
