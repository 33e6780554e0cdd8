"""What runs the forward pass. ``protocol.py`` is all that generation knows of a backend."""
