"""What every test shares: a derandomized hypothesis profile and a kernel cache of the checkout's own."""

import os
from pathlib import Path

import hypothesis

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.register_profile("dev", deadline=None, max_examples=40)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")

# Compiled kernels of test runs stay out of the user's own cache; a clean clone compiles everything once.
os.environ.setdefault("BITNET_CACHE_DIR", str(Path(__file__).parent.parent / ".cache"))
