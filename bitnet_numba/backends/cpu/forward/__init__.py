"""The jitted part of the engine: everything here goes into machine code, and into the name of its cache."""
