"""Bytes to arrays and back: knows files, knows no mathematics."""
