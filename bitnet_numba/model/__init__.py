"""What a model file means: configuration, families, tensors by role, whatever the format."""
