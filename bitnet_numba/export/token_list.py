"""The tokens of a tokenizer.json in the order of their ids, its merges, and what these make of a text."""

from itertools import pairwise
from typing import Any

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.export.json_file import JsonObject, as_object

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # kinds of token, as GGUF numbers them
MAX_JOINING_STEPS = 100_000_000  # about a minute; the vocabulary of Llama 3 needs a tenth

Merge = tuple[str, str]


def read_words(model: JsonObject) -> dict[str, int]:
    """Return the tokens of a model, without those that are added to it, and their ids.

    Raises
    ------
    FormatError
        If an id is not a whole number.
    """
    vocab = model.inner("vocab")
    return {token: vocab.natural(token) for token in vocab.values}


def read_merges(model: JsonObject) -> list[Merge]:
    """Return the pairs that are joined, the first before the others.

    Raises
    ------
    FormatError
        If an entry is not a pair of tokens without spaces.
    """
    return [_merge(model, entry) for entry in model.items("merges")]


def _merge(model: JsonObject, entry: Any) -> Merge:
    """Return the two halves of a merge, which older files write as one string."""
    halves = entry.split(" ") if isinstance(entry, str) else entry
    if not isinstance(halves, list) or len(halves) != 2 or not all(isinstance(half, str) and half for half in halves):
        raise model.error("merges", entry, "pairs of tokens")
    if any(" " in half for half in halves):
        raise model.error("merges", entry, "pairs without spaces, as byte-level BPE and SentencePiece write them")
    return halves[0], halves[1]


def tokens_by_id(tokenizer: JsonObject, words: dict[str, int], vocab_size: int) -> tuple[list[str], list[int]]:
    """Return words and added tokens in the order of their ids, and the kind of each.

    Raises
    ------
    FormatError
        If an id is missing, shared or beyond the embedding.
    UnsupportedError
        If an added token takes spaces along, or stands for whole words only.
    """
    found = {token_id: (token, NORMAL) for token, token_id in words.items()}
    for number, item in enumerate(tokenizer.items("added_tokens")):
        added = as_object(f"{tokenizer.place}: added token {number}", item)
        for rule in ("lstrip", "rstrip", "single_word"):
            if added.flag(rule, default=False):
                raise UnsupportedError(f"{added.place}: {rule} has no name in GGUF; run the directory itself")
        token, token_id = added.text("content"), added.natural("id")
        if found.get(token_id, (token,))[0] != token:
            raise added.error("id", token_id, "an id of its own")
        found[token_id] = token, CONTROL if added.flag("special", default=False) else USER_DEFINED
    if len(found) != vocab_size or max(found) >= vocab_size:
        raise FormatError(
            f"{tokenizer.place}: {len(found):,} tokens with ids up to {max(found, default=0):,}, but the embedding has "
            f"{vocab_size:,} rows; get the tokenizer that this model was trained with"
        )
    tokens, kinds = zip(*(found[token_id] for token_id in range(vocab_size)), strict=True)
    if len(set(tokens)) != vocab_size:
        raise FormatError(f"{tokenizer.place}: a token has two ids; get the checkpoint's own file again")
    return list(tokens), list(kinds)


class Joining:
    """Byte-pair merging: of the neighbours that are a merge the first merge is joined, and of its places the leftmost.

    Parameters
    ----------
    model : JsonObject
        Named in errors.
    merges : list of Merge
        In order of rank.
    """

    def __init__(self, model: JsonObject, merges: list[Merge]) -> None:
        self._model = model
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}

    def check_effort(self, words: list[str]) -> None:
        """Refuse to join words that would take minutes.

        Raises
        ------
        UnsupportedError
            If their lengths, squared, sum to more than ``MAX_JOINING_STEPS``.
        """
        if sum(len(word) ** 2 for word in words) > MAX_JOINING_STEPS:
            raise UnsupportedError(
                f"{self._model.place}: its tokens are too long for the merges to be checked; take a GGUF file"
            )

    def join(self, word: str) -> tuple[list[str], int]:
        """Return the tokens that a word becomes, and the rank of the merge that was applied last, -1 for none."""
        parts, last = list(word), -1
        none = len(self._ranks)
        while len(parts) > 1:
            ranks = [self._ranks.get(pair, none) for pair in pairwise(parts)]
            rank = min(ranks)
            if rank == none:
                break
            best = ranks.index(rank)
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
            last = rank
        return parts, last
