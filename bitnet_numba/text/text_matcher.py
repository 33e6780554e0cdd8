"""Find the texts of added tokens inside a text: from left to right, the longest first."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator


class TextMatcher:
    """A sorted list of texts; memory and set-up are those of the list, however many texts share a beginning.

    Of the texts that begin at a place, the longest is the one that sorts last before the text itself, or one that it
    begins with.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted(texts)
        self._longest = max(map(len, self._texts), default=0)
        firsts = "".join(sorted({text[0] for text in self._texts}))
        self._starts = re.compile(f"[{re.escape(firsts)}]") if firsts else None
        self._shorter: list[int] = []  # for each text, the longest other that it begins with; -1 for none
        for index, text in enumerate(self._texts):
            self._shorter.append(self._beginning_of(text, index - 1))

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield where texts stand, without overlaps: ``(start, stop)``."""
        position = 0
        while self._starts is not None and (found := self._starts.search(text, position)):
            start = found.start()
            rest = text[start : start + self._longest]
            index = self._beginning_of(rest, bisect_right(self._texts, rest) - 1)
            position = start + (1 if index < 0 else len(self._texts[index]))
            if index >= 0:
                yield start, position

    def _beginning_of(self, text: str, index: int) -> int:
        """Return the text that ``text`` begins with, of this one and those that it begins with itself."""
        while index >= 0 and not text.startswith(self._texts[index]):
            index = self._shorter[index]
        return index
