"""A tokenizer's tokens in the order of their ids, and the result of its merges on a text."""

from itertools import pairwise

from bitnet_numba.errors import FormatError, UnsupportedError
from bitnet_numba.text.tokenizer_json import Merge, TokenizerFile
from bitnet_numba.text.vocabulary import TokenType

MAX_JOINING_STEPS = 100_000_000  # about a minute; the vocabulary of Llama 3 needs a tenth


def check_merges(file: TokenizerFile) -> None:
    """Refuse merges of tokens that are empty or hold spaces: GGUF writes a merge as two tokens and a space."""
    for left, right in file.merges:
        if not left or not right or " " in left + right:
            expected = "pairs without spaces, as byte-level BPE and SentencePiece write them"
            raise file.model.error("merges", [left, right], expected)


def tokens_by_id(file: TokenizerFile, vocab_size: int) -> tuple[list[str], list[int]]:
    """Return words and added tokens in the order of their ids, and the :class:`TokenType` of each.

    Rows of the embedding without a token, as padded vocabularies have them, become unused tokens ``[PAD{id}]``, as in
    llama.cpp's converter. Raises FormatError if an id is beyond the embedding, or a token has two; UnsupportedError if
    an added token takes the spaces beside it, or matches whole words only.
    """
    found = {token_id: (token, TokenType.NORMAL) for token, token_id in file.words.items()}
    for added in file.added:
        for rule in ("lstrip", "rstrip", "single_word"):
            if added.flag(rule, default=False):
                raise UnsupportedError(f"{added.place}: {rule} has no name in GGUF; run the directory itself")
        kind = TokenType.CONTROL if added.flag("special", default=False) else TokenType.USER_DEFINED
        found[added.natural("id")] = added.text("content"), kind
    if max(found) >= vocab_size:
        raise FormatError(
            f"{file.place}: {len(found):,} tokens with ids up to {max(found):,}, but the embedding has "
            f"{vocab_size:,} rows; get the tokenizer that this model was trained with"
        )
    listed = [found.get(token_id, (f"[PAD{token_id}]", TokenType.UNUSED)) for token_id in range(vocab_size)]
    tokens = [token for token, _ in listed]
    if len(set(tokens)) != vocab_size:
        raise FormatError(f"{file.place}: a token has two ids; get the checkpoint's own file again")
    return tokens, [int(kind) for _, kind in listed]


class Joining:
    """Byte-pair merging: of neighbours that are a merge, the one of lowest rank first, of equals the leftmost."""

    def __init__(self, file: TokenizerFile) -> None:
        self._place = file.model.place
        self._ranks: dict[Merge, int] = {pair: rank for rank, pair in enumerate(file.merges)}

    def check_effort(self, words: list[str]) -> None:
        """Refuse to join words that would take minutes: their squared lengths exceed ``MAX_JOINING_STEPS``."""
        if sum(len(word) ** 2 for word in words) > MAX_JOINING_STEPS:
            raise UnsupportedError(f"{self._place}: its tokens are too long for the merges to be checked; take a GGUF")

    def join(self, word: str) -> tuple[list[str], int]:
        """Return the tokens that a word becomes, and the rank of the last merge, -1 for none."""
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
