"""Steps of many sequences at once: what is asked for at the same time becomes one step of the model."""

import threading
import time
from collections.abc import Sequence
from typing import Generic

from bitnet_numba.backends.cpu.batch import MAX_CHUNK, PREFILL_CHUNK, TokenChunk
from bitnet_numba.backends.protocol import CacheT, Transformer
from bitnet_numba.errors import BitNetError
from bitnet_numba.generate.request import Request

PATIENCE = 0.25  # of a step's time that a step waits for those who were in the last one
LONGEST_WAIT = 0.05  # seconds


class _Asker(Generic[CacheT]):
    """A thread that waits until one of its requests is done."""

    def __init__(self, requests: Sequence[Request[CacheT]], lock: threading.Lock) -> None:
        self.requests = requests
        self.changed = threading.Condition(lock)  # wakes the thread

    @property
    def done(self) -> list[Request[CacheT]]:
        return [request for request in self.requests if request.is_done]


class Scheduler(Generic[CacheT]):
    """Joins requests of one thread or several into steps.

    There is no thread of its own: one of those that wait leads the steps until one of its own requests is done, and
    then another one does. A prompt is read in parts, so that others' tokens go along with each of them. What else is in
    a step changes no bit of a sequence's logits.

    Parameters
    ----------
    transformer : Transformer
    """

    def __init__(self, transformer: Transformer[CacheT]) -> None:
        self._transformer = transformer
        self._lock = threading.Lock()
        self._all_arrived = threading.Condition(self._lock)
        self._not_led = threading.Condition(self._lock)
        self._waiting: list[_Asker[CacheT]] = []
        self._is_led = self._is_closed = False
        self._expected = 0
        self._last_seconds = 0.0

    def read(self, requests: Sequence[Request[CacheT]]) -> list[Request[CacheT]]:
        """Go on with all requests until some are done, and return these.

        What is read of the others stays read: the next call goes on with them, beside what follows those that are done.

        Parameters
        ----------
        requests : sequence of Request
            At least one, of different caches.

        Raises
        ------
        BitNetError
            If the model was closed.
        """
        asker = _Asker(requests, self._lock)
        with self._lock:
            self.check_open()
            try:
                self._waiting.append(asker)
                if len(self._waiting) >= self._expected:
                    self._all_arrived.notify()
                self._wait_or_lead(asker)
            finally:  # after an interrupt too: whoever was to be served by this thread finds another
                self._waiting = [other for other in self._waiting if other is not asker]
                self._find_leader()
            return asker.done

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

    def _wait_or_lead(self, asker: _Asker[CacheT]) -> None:
        """Return when a request is done; the lock is held here, but for waits and the steps themselves."""
        while self._is_led and not asker.done:
            asker.changed.wait()
        if asker.done:
            return
        self._is_led = True
        try:
            while not asker.done:
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
        """Wait a little for the other threads of the last step, which are choosing their next tokens."""
        deadline = time.monotonic() + min(LONGEST_WAIT, PATIENCE * self._last_seconds)
        while len(self._waiting) < self._expected and not self._is_closed:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not self._all_arrived.wait(remaining):
                return

    def _lead_step(self) -> None:
        batch = _shares([request for asker in self._waiting for request in asker.requests])
        self._lock.release()
        try:
            self._step(batch)
        finally:
            self._lock.acquire()
        # whoever was left out comes next, beside those who come again
        self._expected = len(self._waiting)
        for asker in self._waiting:
            if asker.done:
                asker.changed.notify()
        self._waiting = [asker for asker in self._waiting if not asker.done]

    def _step(self, batch: Sequence[tuple[Request[CacheT], TokenChunk[CacheT]]]) -> None:
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
        calls = self._transformer.kernel_counts() - before
        first = 0
        with self._lock:  # a thread may come back to a request that is in this step, and must not find half of it
            for request, piece in batch:
                end = first + piece.n_logits
                request.take(piece, logits[first:end], calls, screenings[first:end])
                first = end
        self._last_seconds = time.monotonic() - started


def _shares(requests: Sequence[Request[CacheT]]) -> list[tuple[Request[CacheT], TokenChunk[CacheT]]]:
    """Return what the next step takes: all single tokens, and of prompts, the earlier first, what there is room for."""
    batch, room = [], MAX_CHUNK
    for request in sorted(requests, key=lambda request: (request.n_unread > 1, request.number)):
        n_tokens = min(request.n_unread, PREFILL_CHUNK, room)
        if n_tokens:
            batch.append((request, request.piece(n_tokens)))
            room -= n_tokens
    return batch
