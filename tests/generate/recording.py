"""A transformer that notes its steps and can be held up, and threads that ask for some."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from bitnet_numba.backends.cpu.candidates import Rows, Screening
from bitnet_numba.generate.request import Request, Work
from bitnet_numba.generate.scheduler import Scheduler
from tests.generate.fakes import FakeCache, FakeTransformer, LogitsOf, random_logits


class RecordingTransformer(FakeTransformer):
    """Notes what each step takes, and lets a test decide when it begins."""

    def __init__(self, logits_of: LogitsOf = random_logits) -> None:
        super().__init__(logits_of)
        self.steps: list[list[int]] = []
        self.may_begin = threading.Event()
        self.has_begun = threading.Event()
        self.may_begin.set()

    def forward_batch(self, pieces: Sequence[Any]) -> tuple[Rows, list[Screening]]:
        self.steps.append([piece.tokens.size for piece in pieces])
        self.has_begun.set()
        assert self.may_begin.wait(60)
        return super().forward_batch(pieces)


class Asking:
    """A thread that asks for the logits of some tokens."""

    def __init__(self, scheduler: Scheduler[FakeCache], tokens: Sequence[int], n_logits: int = 1) -> None:
        self.work, self.failure = Work(), None
        self.cache = FakeCache(2000)

        def ask() -> None:
            try:
                request = Request(np.array(tokens, np.int32), self.cache, self.work, n_logits)
                assert scheduler.read([request]) == [request]
                self.logits = request.logits()
            except BaseException as failure:
                self.failure = failure

        self._thread = threading.Thread(target=ask)
        self._thread.start()

    def wait(self) -> "Asking":
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self


def held_up(transformer: RecordingTransformer, scheduler: Scheduler[FakeCache]) -> Asking:
    """Begin a step that goes on until the transformer may go on."""
    transformer.may_begin.clear()
    first = Asking(scheduler, [1])
    assert transformer.has_begun.wait(60)
    return first


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    pytest.fail("nothing happened for a minute")
