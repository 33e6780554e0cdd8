"""The jitted forward pass: one call runs a step of all layers."""
