"""Benchmarks of a model, as a share of what the machine can do, and their comparison."""
