"""Pack and unpack each tensor format: bytes to exact codes and scales, and back. No mathematics of models."""
