"""The NumPy backend: slow, obviously right, and the oracle that every other backend is tested against."""
