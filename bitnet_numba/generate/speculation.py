"""Prompt lookup: a guess at the next tokens, taken from where the text has been like this before."""

from collections.abc import Sequence

LONGEST_MATCH = 3  # tokens of the end that are looked up; where they are new, fewer


class PromptLookup:
    """Proposes what followed the last time that the text ended as it does now.

    How much it proposes goes with its luck: after a guess that was right to its end twice as much, else one token more
    than was right.

    Parameters
    ----------
    most : int
        The most tokens to propose at once; with 0 it does nothing.
    token_ids : sequence of int
        The text so far.

    Attributes
    ----------
    proposed_tokens, accepted_tokens : int
        How many were proposed, and how many of these were right.

    References
    ----------
    Saxena, "Prompt Lookup Decoding", 2023; verification as in Leviathan et al., "Fast Inference from Transformers via
    Speculative Decoding", 2023.
    """

    def __init__(self, most: int, token_ids: Sequence[int]) -> None:
        self.proposed_tokens = 0
        self.accepted_tokens = 0
        self._most = most
        self._width = most
        self._token_ids: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}  # of what, the place of the token that followed it last
        self._pending: list[int] = []  # proposed and not yet compared, the next one last
        self._n_right = 0
        for token_id in token_ids if most else ():
            self._append(token_id)

    def propose(self, most: int) -> list[int]:
        """Guess at up to ``most`` tokens, which :meth:`refuted` then compares with those that come."""
        place = self._place() if self._most else None
        if place is None:
            return []
        guess: list[int] = []
        for source in range(place, place + min(most, self._width)):
            known = len(self._token_ids)
            guess.append(self._token_ids[source] if source < known else guess[source - known])  # it may repeat itself
        self.proposed_tokens += len(guess)
        self._pending = guess[::-1]
        self._n_right = 0
        return guess

    def refuted(self, token_id: int) -> int:
        """Take the token that comes next, and return how many proposed ones it shows to be wrong."""
        if not self._most:
            return 0
        self._append(token_id)
        if not self._pending:
            return 0
        if self._pending[-1] != token_id:
            n_wrong = len(self._pending)
            self._pending.clear()
            self._width = min(self._n_right + 1, self._most)
            return n_wrong
        self._pending.pop()
        self._n_right += 1
        self.accepted_tokens += 1
        if not self._pending:
            self._width = min(2 * self._width, self._most)
        return 0

    def _place(self) -> int | None:
        """Return the place of what followed the longest end that has occurred before."""
        for length in range(LONGEST_MATCH, 0, -1):
            place = self._followers.get(tuple(self._token_ids[-length:]))
            if place is not None:
                return place
        return None

    def _append(self, token_id: int) -> None:
        place = len(self._token_ids)
        for length in range(1, min(LONGEST_MATCH, place) + 1):
            self._followers[tuple(self._token_ids[-length:])] = place
        self._token_ids.append(token_id)
