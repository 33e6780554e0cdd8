"""The command line in a process of its own with a fake model: ``python -m tests.cli.fake_process run x``.

Its answer never ends unless it is asked for one token.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from bitnet_numba_cli.main import main
from tests.cli.fake import FakeChunk, FakeModel, install


class EndlessModel(FakeModel):
    """Count for ever."""

    def stream(self, prompt: Sequence[int], **sampling: Any) -> Iterator[FakeChunk]:
        if sampling.get("max_tokens") == 1:
            yield from super().stream(prompt, **sampling)
            return
        for number in itertools.count():
            yield FakeChunk(f"{number} ")
            time.sleep(0.001)


if __name__ == "__main__":
    install(pytest.MonkeyPatch(), EndlessModel())
    main()
