"""Sampling: from logits to the next token, with penalties, filters, processors of the caller and the random draw."""
