"""What this process has had to compile."""

from dataclasses import dataclass


@dataclass
class Compilation:
    """Kernels that were compiled rather than loaded, and the seconds that took."""

    kernels: int = 0
    seconds: float = 0.0


compiled = Compilation()
"""Of this process, so far."""
