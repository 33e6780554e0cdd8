"""The output head: all logits, or exactly those candidates that an int8 copy cannot exclude."""
