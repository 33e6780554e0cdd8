"""Differential validation: two models or engines compared by their logits, and the perplexity of a text."""
