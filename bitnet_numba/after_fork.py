"""What a forked child does first: registered objects forget the parent's threads and make their locks new.

``fork`` copies the memory of all threads, but only the thread that forked goes on in the child: the others' locks stay
locked, and what they were about to do is never done. Weights and KV caches are shared pages, and stay as they are.
"""

import os
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """An object that has threads or locks."""

    def after_fork(self) -> None:
        """Make threads and locks new, and forget what other threads were doing; called in the child alone."""
        ...


_objects: "weakref.WeakSet[ForkAware]" = weakref.WeakSet()


def register_for_forks(subject: ForkAware) -> None:
    """Call ``subject.after_fork`` in every child that is forked from now on, as long as the object is alive."""
    _objects.add(subject)


def _reset_all() -> None:
    for subject in list(_objects):
        subject.after_fork()


os.register_at_fork(after_in_child=_reset_all)
