"""Cut a stream of text at the first stop string, even if that is split over several chunks."""

from collections.abc import Iterable


class StopScanner:
    """Pass text through up to the stop string that begins first, as :meth:`str.find` on the whole text would find it.

    Text that may begin a stop string is held back until it is decided. No stop string may be empty.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        self.found: str | None = None  # the stop string; all text from it on is dropped
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def push(self, text: str) -> str:
        """Take the next chunk, and return the text that is now decided to come before any stop string."""
        return self._scan(text, is_last=False)

    def finish(self) -> str:
        """Return the text that was held back, at the end of the stream."""
        return self._scan("", is_last=True)

    def _scan(self, text: str, is_last: bool) -> str:
        if self.found is not None:
            return ""
        text, self._held = self._held + text, ""
        undecided = len(text) if is_last else len(text) - self._longest + 1  # where a stop string may be incomplete
        for start in range(len(text)):
            if text.startswith(self._stops, start):
                self.found = next(stop for stop in self._stops if text.startswith(stop, start))
                return text[:start]
            if start >= undecided and any(stop.startswith(text[start:]) for stop in self._stops):
                self._held = text[start:]
                return text[:start]
        return text
