"""Generation: sequences, the engine loop that serves them, sampling, and the model as Python programs use it."""
