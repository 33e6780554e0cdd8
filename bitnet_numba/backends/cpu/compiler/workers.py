"""Processes that compile kernels beside this one, into the same cache.

Numba compiles under a global lock, so threads would not help. Each process is given one kernel after the other by a
thread of its own, and replies with the kernels that this one calls; this process compiles what none of them has begun.
"""

import contextlib
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from numba.core.serialize import dumps

from bitnet_numba import machine_limits

MAX_WORKERS = 3
"""More have nothing to do: the kernels that take longest come one after the other."""

_SERVE = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve()"
_LENGTH = struct.Struct("<Q")
_WAITING, _BEGUN, _DONE = range(3)


class Workers:
    """Tasks, and the processes that work on them.

    What a finished task has found comes before older tasks, for what a kernel calls can take longer than itself.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._states: dict[Hashable, int] = {}
        self._order: list[Hashable] = []
        self._n_found = 0  # of the current compilation of this process: the first ones in the order
        self._processes: list[subprocess.Popen[bytes]] = []
        self._n_done = self._n_seen = self._n_compiled = 0

    def submit(self, task: Hashable) -> None:
        """Let a process compile a kernel, if there are cores for more than one."""
        with self._changed:
            if task in self._states:
                return
            self._states[task] = _WAITING
            self._order.insert(self._n_found, task)
            self._n_found += 1
            if not self._processes:
                self._start()
            self._changed.notify_all()

    def take(self, tasks: Iterable[Hashable]) -> Any:
        """Return the first task that nobody has begun, or that is done; None where other processes are at all."""
        with self._changed:
            self._n_found = 0
            free = [task for task in tasks if self._states.get(task) != _BEGUN]
            task = min(free, key=lambda task: self._order.index(task) if task in self._states else -1, default=None)
            if task is not None and self._states.get(task) == _WAITING:
                self._states[task] = _DONE
            return task

    def wait(self) -> None:
        """Wait until some process has finished a task, or ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._n_done > self._n_seen or _BEGUN not in self._states.values())
            self._n_seen = self._n_done

    def close(self) -> int:
        """End the processes, and return how many functions they have compiled; a later task starts new ones."""
        with self._changed:
            for process in self._processes:
                if process.stdin is not None:
                    with contextlib.suppress(OSError):
                        process.stdin.close()
            self._processes.clear()
            self._states.clear()
            self._order.clear()
            self._changed.notify_all()
            n_compiled, self._n_compiled = self._n_compiled, 0
            return n_compiled

    def _start(self) -> None:
        """Start the processes; without any, this one compiles everything."""
        if not Path(sys.executable).name.startswith("python"):  # a program that embeds Python
            return
        command = [sys.executable, "-c", _SERVE.format(path=sys.path, module=__name__)]
        for _ in range(min(machine_limits.usable_cores().cores - 1, MAX_WORKERS)):
            with contextlib.suppress(OSError, RuntimeError):  # no process or no thread to be had
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,  # what fails there is compiled here, and fails here
                    start_new_session=True,  # Ctrl-C ends this process, and the end of stdin then ends that one
                )
                threading.Thread(target=self._feed, args=(process,), daemon=True).start()
                self._processes.append(process)

    def _feed(self, process: "subprocess.Popen[bytes]") -> None:
        """Hand a process one task after the other, until it is closed or fails."""
        with process, contextlib.suppress(OSError, EOFError, ValueError, pickle.UnpicklingError):
            for task in self._waiting(process):
                found: list[Hashable] = []
                n_compiled = 0
                try:
                    _send(process.stdin, dumps(task))
                    found, n_compiled = pickle.loads(_receive(process.stdout))
                finally:
                    self._finish(task, found, n_compiled)

    def _finish(self, task: Hashable, found: Iterable[Hashable], n_compiled: int) -> None:
        with self._changed:
            self._n_done += 1
            self._n_compiled += n_compiled
            if task in self._states:  # not closed since
                self._states[task] = _DONE
                new = [other for other in found if other not in self._states]
                self._states.update(dict.fromkeys(new, _WAITING))
                self._order[self._n_found : self._n_found] = new
            self._changed.notify_all()

    def _waiting(self, process: "subprocess.Popen[bytes]") -> Iterator[Any]:
        """Yield the tasks that nobody has begun, the first ones first, while the process is one of these."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: process not in self._processes or _WAITING in self._states.values())
                if process not in self._processes:
                    return
                task = next(task for task in self._order if self._states[task] == _WAITING)
                self._states[task] = _BEGUN
            yield task


def serve() -> None:
    """Compile the kernels that come through stdin, and reply through stdout, until that ends."""
    from bitnet_numba.backends.cpu.compiler import separate
    from bitnet_numba.backends.cpu.compiler.compiled import compiled

    separate.is_worker = True
    source, target = sys.stdin.buffer, sys.stdout.buffer
    with contextlib.suppress(EOFError):
        while True:
            use = pickle.loads(_receive(source))
            before = compiled.kernels
            _send(target, dumps((separate.compile_only(use), compiled.kernels - before)))


def _send(pipe: IO[bytes] | None, message: bytes) -> None:
    if pipe is not None:
        pipe.write(_LENGTH.pack(len(message)) + message)
        pipe.flush()


def _receive(pipe: IO[bytes] | None) -> bytes:
    """Read a message; EOFError where there is no more."""
    header = pipe.read(_LENGTH.size) if pipe is not None else b""
    if pipe is None or len(header) < _LENGTH.size:
        raise EOFError
    return pipe.read(_LENGTH.unpack(header)[0])
