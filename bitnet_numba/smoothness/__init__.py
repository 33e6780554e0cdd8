"""Smoothness metrics: quantize a safetensors model for real and measure its parameters, errors and sizes."""
