"""Steps of many sequences at once: what several threads ask for at the same time becomes one step of the model."""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from bitnet_numba.engine.batch import MAX_CHUNK, PREFILL_CHUNK, Piece
from bitnet_numba.engine.head import NeededLogits, Screening
from bitnet_numba.engine.protocols import CacheT, Transformer
from bitnet_numba.errors import BitNetError

PATIENCE = 0.25  # of a step's time that a step waits for those who were in the last one
LONGEST_WAIT = 0.05  # seconds


@dataclass(slots=True)
class Work:
    """What steps have taken.

    Attributes
    ----------
    kernels : Counter of str
        Calls of each kernel in the steps that the sequence took part in, whoever else did.
    rescored_rows : int
        Logits that were computed exactly after the screening of all.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    rescored_rows: int = 0


class _Request(Generic[CacheT]):
    """Tokens of one sequence that a thread waits for, read in one step or several."""

    def __init__(
        self,
        tokens: NDArray[np.int32],
        cache: CacheT,
        n_logits: int,
        needed: NeededLogits | None,
        work: Work,
        changed: threading.Condition,
    ) -> None:
        self.tokens, self.cache, self.n_logits, self.needed, self.work = tokens, cache, n_logits, needed, work
        self.changed = changed  # wakes the thread that waits for it
        self.rows: list[NDArray[np.float32]] = []
        self.screenings: list[Screening] = []
        self.failure: BaseException | None = None
        self._read = 0

    @property
    def unread(self) -> int:
        return self.tokens.size - self._read

    @property
    def is_done(self) -> bool:
        return self.failure is not None or not self.unread

    def piece(self, n_tokens: int) -> Piece[CacheT]:
        """Return the next tokens, with those of the last ``n_logits`` that are among them."""
        end = self._read + n_tokens
        n_logits = max(0, end - max(self._read, self.tokens.size - self.n_logits))
        return Piece(self.tokens[self._read : end], self.cache, n_logits, self.needed)

    def take(self, piece: Piece[CacheT], rows: NDArray[np.float32], screenings: list[Screening]) -> None:
        self._read += piece.tokens.size
        if piece.n_logits:
            self.rows.append(rows)
            self.screenings += screenings
        self.work.rescored_rows += sum(screening.rescored_rows for screening in screenings)

    def logits(self, vocab_size: int) -> NDArray[np.float32]:
        if len(self.rows) == 1:
            return self.rows[0]
        return np.concatenate([np.empty((0, vocab_size), np.float32), *self.rows])


class Scheduler(Generic[CacheT]):
    """Joins requests of several threads into steps.

    There is no thread of its own: one of those that wait leads the steps until its own request is done, and then
    another one does. A prompt is read in parts, so that others' tokens go along with each of them. What else is in a
    step changes no bit of a sequence's logits.

    Parameters
    ----------
    transformer : Transformer
    """

    def __init__(self, transformer: Transformer[CacheT]) -> None:
        self._transformer = transformer
        self._lock = threading.Lock()
        self._all_arrived = threading.Condition(self._lock)
        self._not_led = threading.Condition(self._lock)
        self._waiting: list[_Request[CacheT]] = []
        self._is_led = self._is_closed = False
        self._expected = 0
        self._last_seconds = 0.0

    def forward(
        self,
        tokens: NDArray[np.int32],
        cache: CacheT,
        work: Work,
        n_logits: int,
        needed: NeededLogits | None,
    ) -> tuple[NDArray[np.float32], list[Screening]]:
        """Read ``int32[n_tokens]`` into a cache, and add what this took to ``work``.

        Returns
        -------
        logits : float32[n_logits, vocab_size]
            Of the last tokens; the caller's own.
        screenings : list of Screening
            What is known of those that were left out, for each row.

        Raises
        ------
        BitNetError
            If the model was closed.
        """
        request = _Request(tokens, cache, n_logits, needed, work, threading.Condition(self._lock))
        with self._lock:
            self.check_open()
            self._waiting.append(request)
            if len(self._waiting) >= self._expected:
                self._all_arrived.notify()
            try:
                self._wait_or_lead(request)
            finally:  # after an interrupt too: whoever was to be served by this thread finds another
                self._waiting = [other for other in self._waiting if other is not request]
                self._find_leader()
        if request.failure is not None:
            raise request.failure
        return request.logits(self._transformer.config.vocab_size), request.screenings

    def close(self) -> None:
        """Wait for the step that runs, if any, and close the transformer; what still waits is refused."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
            self._all_arrived.notify()
            while self._is_led:
                self._not_led.wait()
        if not was_closed:
            self._transformer.close()

    def check_open(self) -> None:
        """Raise BitNetError if the model was closed."""
        if self._is_closed:
            raise BitNetError("the model was closed: load it again")

    def _wait_or_lead(self, request: _Request[CacheT]) -> None:
        """Return when the request is done; the lock is held here, but for waits and the steps themselves."""
        while self._is_led and not request.is_done:
            request.changed.wait()
        if request.is_done:
            return
        self._is_led = True
        try:
            while not request.is_done:
                self._gather()
                self.check_open()
                self._lead_step()
        finally:
            self._is_led = False

    def _find_leader(self) -> None:
        """Wake one of those that wait, if nobody leads; waking all each time would cost as much as some layers."""
        if not self._is_led:
            self._not_led.notify_all()
            if self._waiting:
                self._waiting[0].changed.notify()

    def _gather(self) -> None:
        """Wait a little for the other sequences of the last step, whose next tokens are being chosen."""
        deadline = time.monotonic() + min(LONGEST_WAIT, PATIENCE * self._last_seconds)
        while len(self._waiting) < self._expected and not self._is_closed:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not self._all_arrived.wait(remaining):
                return

    def _lead_step(self) -> None:
        batch = _shares(self._waiting)
        self._lock.release()
        try:
            self._step(batch)
        finally:
            self._lock.acquire()
        # whoever was left out comes next, beside those who come again
        self._expected = max(len(batch), len(self._waiting))
        for request in self._waiting:
            if request.is_done:
                request.changed.notify()
        self._waiting = [request for request in self._waiting if not request.is_done]

    def _step(self, batch: Sequence[tuple[_Request[CacheT], Piece[CacheT]]]) -> None:
        """Run one step, and give everyone in it what is theirs."""
        started = time.monotonic()
        before = self._transformer.kernel_counts()
        try:
            logits, screenings = self._transformer.forward_batch([piece for _, piece in batch])
        except Exception as failure:
            if len(batch) == 1:
                batch[0][0].failure = failure
            else:
                for each in batch:  # so that it meets only whose it is
                    self._step([each])
            return
        calls = Counter(self._transformer.kernel_counts())
        calls.subtract(before)
        first = 0
        for request, piece in batch:
            end = first + piece.n_logits
            request.take(piece, logits[first:end], screenings[first:end])
            request.work.kernels += calls
            first = end
        self._last_seconds = time.monotonic() - started


def _shares(waiting: Sequence[_Request[CacheT]]) -> list[tuple[_Request[CacheT], Piece[CacheT]]]:
    """Return what the next step takes of each request: single tokens all, and of prompts what there is room for."""
    batch, room = [], MAX_CHUNK
    for request in sorted(waiting, key=lambda request: request.unread > 1):  # in the order in which they came, else
        n_tokens = min(request.unread, PREFILL_CHUNK, room)
        if n_tokens:
            batch.append((request, request.piece(n_tokens)))
            room -= n_tokens
    return batch
