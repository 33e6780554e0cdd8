"""What every test shares: a derandomized hypothesis profile, a kernel cache of the checkout's own, both backends."""

import functools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from bitnet_numba import LanguageModel
    from bitnet_numba.backends.protocol import Backend

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.register_profile("dev", deadline=None, max_examples=40)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")

# Compiled kernels of test runs stay out of the user's own cache; a clean clone compiles everything once.
os.environ.setdefault("BITNET_CACHE_DIR", str(Path(__file__).parent.parent / ".cache"))

# Some systems start programs with SIGINT ignored (nohup, a background job of a script), which children inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On busy cores, BLAS threads that spin for each other make a small product a hundred times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(scope="session", params=["cpu", "numpy"])
def backend_kind(request: pytest.FixtureRequest) -> str:
    """Each backend in turn: what generation does must not depend on it."""
    return str(request.param)


@pytest.fixture(scope="session")
def load_backend(backend_kind: str) -> "Callable[..., Backend[Any]]":
    """Load a model file on the backend in turn: ``load_backend(path, kv_type="f16")``."""
    from tests.both_backends import load  # here: it imports Numba, which most tests do without

    return functools.partial(load, backend_kind)


@pytest.fixture(scope="session")
def demo(backend_kind: str) -> "Iterator[LanguageModel]":
    """The embedded model on the backend in turn, for all tests of a session."""
    from tests.both_backends import load_demo

    with load_demo(backend_kind) as model:
        yield model
