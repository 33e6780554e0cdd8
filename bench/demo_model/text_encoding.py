"""From documents to token ids: the tokenizer, and the stream of training windows."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from bitnet_numba.text.vocabulary import LLAMA3_PATTERN

BEGIN, END, END_OF_TURN, PAD = SPECIAL_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|pad|>")
ANSWER = "Assistant: "
SPLIT_CHATS, SPLIT_SNIPPETS = 0.7, 0.8  # shares of the documents whose prompt is encoded apart from what follows


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a byte-level BPE vocabulary; the special tokens take its last ids, as in Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.replace(END_OF_TURN, " ") for document in documents), trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))]
    )
    if tokenizer.get_vocab_size() != vocab_size:
        raise SystemExit(f"the corpus yields {tokenizer.get_vocab_size():,} tokens, not {vocab_size:,}: give more text")
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``."""
    return Tokenizer.from_file(str(path))


def encode_documents(
    tokenizer: Tokenizer, documents: Iterable[str], rng: random.Random | None = None
) -> npt.NDArray[np.uint16]:
    """Encode documents, each between its begin and end token, into one long row.

    Parameters
    ----------
    tokenizer : Tokenizer
        Of at most 65,536 tokens.
    documents : iterable of str
        The texts, in order.
    rng : Random, optional
        Where given, it chooses documents whose prompt is encoded apart from what follows. So the model meets the token
        boundary that it meets in use, where the prompt ends before the answer is known.
    """
    split = [_split_prompt(document, rng) if rng else [document] for document in documents]
    pieces = iter(tokenizer.encode_batch([piece for parts in split for piece in parts], add_special_tokens=False))
    begin, end = tokenizer.token_to_id(BEGIN), tokenizer.token_to_id(END)
    ids = []
    for parts in split:
        ids.append(begin)
        for _ in parts:
            ids += next(pieces).ids
        ids.append(end)
    return np.array(ids, dtype=np.uint16)


def _split_prompt(document: str, rng: random.Random) -> list[str]:
    if ANSWER in document and rng.random() < SPLIT_CHATS:
        cut = document.index(ANSWER) + len(ANSWER)
    elif document.startswith("def ") and rng.random() < SPLIT_SNIPPETS:
        cut = document.index(":") + 1
    else:
        return [document]
    return [document[:cut], document[cut:]]


class TokenStream:
    """Training windows, read epoch after epoch from a place that can be saved.

    Parameters
    ----------
    encode_epoch : callable
        Takes an epoch's number, returns its tokens.
    """

    def __init__(self, encode_epoch: Callable[[int], npt.NDArray[np.uint16]]) -> None:
        self._encode_epoch = encode_epoch
        self.move_to(epoch=0, position=0)

    def move_to(self, epoch: int, position: int) -> None:
        """Continue with the token at ``position`` of an epoch."""
        self.epoch = epoch
        self.position = position
        self._tokens = self._encode_epoch(epoch)

    def next_batch(self, n_windows: int, length: int) -> npt.NDArray[np.int64]:
        """Return int64[n_windows, length + 1]; each window's last token is the next one's first."""
        return np.stack([self._next_window(length) for _ in range(n_windows)])

    def _next_window(self, length: int) -> npt.NDArray[np.int64]:
        if self.position + length + 1 > self._tokens.size:
            self.move_to(self.epoch + 1, position=0)
        window = self._tokens[self.position : self.position + length + 1]
        self.position += length
        return window.astype(np.int64)
