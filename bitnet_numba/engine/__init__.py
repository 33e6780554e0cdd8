"""A running model."""
