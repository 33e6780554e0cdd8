"""The command line in a process of its own with a fake model: ``python -m tests.cli.fake_process run x``.

It counts for minutes unless it is asked for one token; ``ANSWER`` in the environment is another answer.
"""

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from bitnet_numba.backends.protocol import Candidates, TokenChunk
from bitnet_numba.generate.language_model import TokenIds
from bitnet_numba.generate.result import Chunk
from bitnet_numba.options import SamplingParams
from bitnet_numba_cli.main import main
from tests.cli.conftest import install
from tests.fakes import FakeBackend, FakeCache, ScriptedModel

COUNTING = " ".join(map(str, range(100_000)))


class SlowBackend(FakeBackend):
    """Takes a millisecond a step."""

    def forward(self, chunks: Sequence[TokenChunk[FakeCache]]) -> list[list[Candidates]]:
        time.sleep(0.001)
        return super().forward(chunks)


class TalkativeModel(ScriptedModel):
    """Goes on as long as there is an answer, unless a limit is set."""

    def stream(self, prompt: str | TokenIds, params: SamplingParams | None = None, **arguments: Any) -> Iterator[Chunk]:
        return super().stream(prompt, params, **({"max_tokens": len(COUNTING)} | arguments))


if __name__ == "__main__":
    answer = os.environ.get("ANSWER", COUNTING)
    install(pytest.MonkeyPatch(), TalkativeModel(answer, max_context=10**9, backend=SlowBackend))
    main()
