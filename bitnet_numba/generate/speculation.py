"""Where draft tokens come from: prompt-lookup speculation, or an answer that is to be verified."""

from collections.abc import Sequence
from typing import Protocol

MAX_NGRAM = 3  # tokens at the end of the text that are looked up; fewer where they are new


class Drafter(Protocol):
    """Drafts tokens, and compares them with those that are sampled.

    Attributes
    ----------
    draft_tokens, accepted_tokens : int
        Number of tokens drafted so far, and accepted.
    """

    draft_tokens: int
    accepted_tokens: int

    def draft(self, limit: int) -> list[int]:
        """Return up to ``limit`` draft tokens, which :meth:`verify` then compares with those that are sampled."""
        ...

    def verify(self, token_id: int) -> int:
        """Take the sampled token; return the number of draft tokens that it rejects."""
        ...


class RecordedAnswer:
    """Drafts an answer that exists already, so that sampling it again verifies many tokens a step.

    After the first token that differs it drafts no more. Attributes are those of :class:`Drafter`.

    Parameters
    ----------
    token_ids : sequence of int
    max_draft_tokens : int
        Draft tokens in a step, at most.
    """

    def __init__(self, token_ids: Sequence[int], max_draft_tokens: int) -> None:
        self.draft_tokens = 0
        self.accepted_tokens = 0
        self._token_ids, self._max = list(token_ids), max_draft_tokens
        self._n_sampled = 0
        self._end = 0  # of the draft that the next step runs

    def draft(self, limit: int) -> list[int]:
        draft = self._token_ids[self._n_sampled : self._n_sampled + min(limit, self._max)]
        self._end = self._n_sampled + len(draft)
        self.draft_tokens += len(draft)
        return draft

    def verify(self, token_id: int) -> int:
        at, self._n_sampled = self._n_sampled, self._n_sampled + 1
        if self._token_ids[at : at + 1] == [token_id]:
            self.accepted_tokens += at < self._end
            return 0
        self._token_ids = []
        return max(0, self._end - at)


class PromptLookup:
    """Drafts tokens, and compares them with those that are sampled.

    The draft length adapts: doubled after a draft that was accepted whole, else one more than was accepted.

    Parameters
    ----------
    max_draft_tokens : int
        Draft tokens in a step, at most; 0 turns speculation off.
    token_ids : sequence of int
        The prompt.

    Attributes
    ----------
    draft_tokens, accepted_tokens : int
        Number of tokens drafted so far, and accepted.

    References
    ----------
    Saxena, "Prompt Lookup Decoding", 2023; verification as in Leviathan et al., "Fast Inference from Transformers via
    Speculative Decoding", 2023.
    """

    def __init__(self, max_draft_tokens: int, token_ids: Sequence[int]) -> None:
        self.draft_tokens = 0
        self.accepted_tokens = 0
        self._max = self._length = max_draft_tokens
        self._token_ids: list[int] = []
        self._following: dict[tuple[int, ...], int] = {}  # n-gram -> index of the token that followed it last
        self._unverified: list[int] = []  # draft tokens, the next one last
        self._n_accepted = 0  # of this draft
        for token_id in token_ids if max_draft_tokens else ():
            self._append(token_id)

    def draft(self, limit: int) -> list[int]:
        """Return up to ``limit`` draft tokens, which :meth:`verify` then compares with those that are sampled."""
        start = self._lookup() if self._max else None
        if start is None:
            return []
        known = len(self._token_ids)
        draft: list[int] = []
        for source in range(start, start + min(limit, self._length)):
            draft.append(self._token_ids[source] if source < known else draft[source - known])  # may repeat itself
        self.draft_tokens += len(draft)
        self._unverified = draft[::-1]
        self._n_accepted = 0
        return draft

    def verify(self, token_id: int) -> int:
        """Take the sampled token; return the number of draft tokens that it rejects."""
        if not self._max:
            return 0
        self._append(token_id)
        if not self._unverified:
            return 0
        if self._unverified[-1] != token_id:
            n_rejected = len(self._unverified)
            self._unverified.clear()
            self._length = min(self._n_accepted + 1, self._max)
            return n_rejected
        self._unverified.pop()
        self._n_accepted += 1
        self.accepted_tokens += 1
        if not self._unverified:
            self._length = min(2 * self._length, self._max)
        return 0

    def _lookup(self) -> int | None:
        """Return the index of the token that followed the longest n-gram at the end of the text."""
        for length in range(MAX_NGRAM, 0, -1):
            index = self._following.get(tuple(self._token_ids[-length:]))
            if index is not None:
                return index
        return None

    def _append(self, token_id: int) -> None:
        index = len(self._token_ids)
        for length in range(1, min(MAX_NGRAM, index) + 1):
            self._following[tuple(self._token_ids[-length:])] = index
        self._token_ids.append(token_id)
