"""Fixtures: a local hub with one model, an empty cache, a clean environment."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bitnet_numba.hub.retry import RetryPolicy
from tests.hub.server import FakeHub, serving

FAST = RetryPolicy(attempts=3, first_wait=0.001, longest_wait=0.002, longest_retry_after=2.0, timeout=0.3)
CONTENT = bytes(range(256)) * 1_000
NAME = "tiny-i2_s.gguf"


@pytest.fixture(autouse=True)
def no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's token, proxies and settings out of the tests."""
    for name in ("HF_TOKEN", "BITNET_OFFLINE", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """Serve a repository with one file."""
    with serving({NAME: CONTENT}) as served:
        yield served


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> Path:
    """Point the hub's library and the commands to this server and to an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + template)
    monkeypatch.setattr("bitnet_numba.hub.pull.RetryPolicy", lambda **_: FAST)
    return tmp_path / "cache"
