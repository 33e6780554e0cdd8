"""The mathematics, one file an operator; every kernel has a NumPy twin in reference.py."""
