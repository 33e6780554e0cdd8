"""Stop strings in a stream of text."""

from collections.abc import Iterable


class StopScanner:
    """Pass text through up to the first stop string, however the text is split.

    Text that could be the beginning of a stop string is held back until the next pieces decide, so nothing of a stop
    string is ever given out. The first one is the one that begins first, as with :meth:`str.find` on the whole text.

    Parameters
    ----------
    stops : iterable of str
        None of them empty.

    Attributes
    ----------
    stopped : bool
        Whether a stop string was found; from then on everything is swallowed.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self.stopped = False
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> str:
        """Take the next piece of text and give what is now known to come before any stop string."""
        if self.stopped:
            return ""
        self._held += text
        found = self._first_stop()
        undecided = self._first_beginning()
        if found < len(self._held) and found <= undecided:
            return self._stop_at(found)
        return self._release(min(found, undecided))

    def finish(self) -> str:
        """Give what was held back, once no more text comes."""
        if self.stopped:
            return ""
        found = self._first_stop()
        return self._stop_at(found) if found < len(self._held) else self._release(found)

    def _first_stop(self) -> int:
        """Where the first whole stop string begins in the held text; its length where there is none."""
        places = (self._held.find(stop) for stop in self._stops)
        return min((place for place in places if place >= 0), default=len(self._held))

    def _first_beginning(self) -> int:
        """Where the first unfinished stop string begins at the end of the held text; its length where there is none."""
        held = self._held
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for start in range(max(0, len(held) - longest), len(held)):
            if any(len(stop) > len(held) - start and stop.startswith(held[start:]) for stop in self._stops):
                return start
        return len(held)

    def _release(self, end: int) -> str:
        text, self._held = self._held[:end], self._held[end:]
        return text

    def _stop_at(self, start: int) -> str:
        self.stopped = True
        text, self._held = self._held[:start], ""
        return text
