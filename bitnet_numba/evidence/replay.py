"""Replay of a receipt: compute its answer again, and compare every hidden state and every token.

The bits of this engine do not depend on how many tokens a step runs. So the recorded answer is verified like the draft
tokens of speculative decoding: a step runs 16 of them at once, and the sampler says for each whether it chooses the
same. That is as much evidence as generating the answer anew, at the speed of reading a prompt.
"""

import random
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

from bitnet_numba.errors import ParameterError
from bitnet_numba.evidence.consistency import sampling_params
from bitnet_numba.evidence.facts import ModelIdentity, model_info
from bitnet_numba.evidence.receipt import text_digest
from bitnet_numba.generate.hidden_digest import POSITIONS_PER_LEAF
from bitnet_numba.generate.language_model import LanguageModel
from bitnet_numba.generate.sequence import Sequence
from bitnet_numba.generate.speculation import RecordedAnswer
from bitnet_numba.options import MAX_DRAFT_TOKENS


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the computation departs from the receipt.

    Attributes
    ----------
    what : str
        ``model``, ``tokenizer``, ``hidden state``, ``token``, ``end`` or ``text``.
    position : int or None
        Index in the answer of the first token that is affected.
    message : str
        One line.
    """

    what: str
    position: int | None
    message: str


@dataclass(frozen=True, slots=True)
class Replay:
    """The outcome of a replay.

    Attributes
    ----------
    differences : tuple of Difference
        None if the receipt is confirmed.
    positions : int
        Sampled tokens that were checked.
    leaves : tuple of int
        Leaves of the hidden states that were to be checked; the first difference ends the replay.
    prompt_tokens : int
    seconds : float
        Time that the steps took, and everything between them.
    """

    differences: tuple[Difference, ...]
    positions: int
    leaves: tuple[int, ...]
    prompt_tokens: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain JSON values."""
        return {"confirmed": self.confirmed, **asdict(self)}

    @property
    def confirmed(self) -> bool:
        """Whether everything is as the receipt says."""
        return not self.differences


def replay(
    receipt: Mapping[str, Any],
    model: LanguageModel,
    identity: ModelIdentity,
    *,
    decode: bool = False,
    steps: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Replay:
    """Compute the answer of a verified receipt again.

    Parameters
    ----------
    receipt : dict
        One that :func:`~bitnet_numba.evidence.verify.verify_receipt` passed.
    model : LanguageModel
        Loaded with the receipt's ``load_options``.
    identity : ModelIdentity
        Its digests.
    decode : bool
        Generate token by token, without the recorded answer.
    steps : int, optional
        Check that many leaves of 16 positions, chosen at random, taking the text before each on trust; by default all.
    on_progress : callable, optional
        Called with the number of checked positions and that of all.

    Raises
    ------
    ParameterError
        If both ``decode`` and ``steps`` are given.
    """
    if decode and steps is not None:
        raise ParameterError("steps: a sample is not generated anew; drop decode or steps")
    differences = _compare_model(receipt, model, identity)
    started = time.perf_counter()
    if steps is None:
        checked, leaves, found = _replay_all(receipt, model, decode, on_progress)
    else:
        checked, leaves, found = _replay_sample(receipt, model, steps, on_progress)
    seconds = time.perf_counter() - started
    return Replay((*differences, *found), checked, leaves, receipt["prompt_tokens"], seconds)


# ---- the answer ------------------------------------------------------------------------------------------------------
def _replay_all(
    receipt: Mapping[str, Any], model: LanguageModel, decode: bool, on_progress: Callable[[int, int], None] | None
) -> tuple[int, tuple[int, ...], list[Difference]]:
    """Compute the whole answer, until a token differs."""
    sampled, leaves = _sampled_ids(receipt), receipt["hidden_leaves"]
    params = sampling_params(receipt["sampling"])
    drafter = None if decode else RecordedAnswer(sampled, MAX_DRAFT_TOKENS)
    if not decode:
        params = replace(params, lookup=0)
    sequence = model.new_sequence(receipt["prompt_token_ids"], params, drafter=drafter, record=True)
    text = []
    with closing(model.engine.stream(sequence)) as chunks:
        for chunk in chunks:
            text.append(chunk.text)
            if on_progress is not None:
                on_progress(len(sequence.token_ids), len(sampled))
            if sequence.token_ids != receipt["token_ids"][: len(sequence.token_ids)]:
                break
    found = _compare_tokens(sequence, receipt)
    n_computed = len(sequence.token_ids) + (sequence.stop_token_id is not None)
    # where tokens part, the leaf is of other positions than the receipt's
    n_whole = n_computed // POSITIONS_PER_LEAF if found else len(leaves)
    found += _compare_leaves(sequence.hidden_leaves()[:n_whole], leaves, range(len(leaves)), len(sampled))
    if not found and text_digest("".join(text)) != receipt["text_sha256"]:
        found.append(
            Difference("text", None, "the text of these tokens is not the one that the receipt has a digest of")
        )
    return n_computed, tuple(range(len(leaves))), _first(found)


def _replay_sample(
    receipt: Mapping[str, Any], model: LanguageModel, count: int, on_progress: Callable[[int, int], None] | None
) -> tuple[int, tuple[int, ...], list[Difference]]:
    """Compute leaves chosen at random; what lies before one is only read."""
    sampled, leaves = _sampled_ids(receipt), receipt["hidden_leaves"]
    chosen = sorted(random.SystemRandom().sample(range(len(leaves)), min(count, len(leaves))))
    params = replace(sampling_params(receipt["sampling"]), lookup=0, stop=(), ignore_eos=True)
    checked = 0
    for leaf in chosen:  # in order, so that the prefix cache has what lies before
        start = POSITIONS_PER_LEAF * leaf
        expected = sampled[start : start + POSITIONS_PER_LEAF]
        sequence = model.new_sequence(
            receipt["prompt_token_ids"],
            replace(params, max_tokens=len(expected)),
            answer=sampled[:start],
            drafter=RecordedAnswer(expected, MAX_DRAFT_TOKENS),
            record=True,
        )
        token_ids = model.engine.generate([sequence])[0].token_ids
        found = _compare_leaves(sequence.hidden_leaves(), [leaves[leaf]], [leaf], len(sampled))
        found += [
            _wrong_token(start + at, ours, theirs)
            for at, (ours, theirs) in enumerate(zip(token_ids, expected, strict=True))
            if ours != theirs
        ][:1]
        if found:
            return checked, tuple(chosen), _first(found)
        checked += len(expected)
        if on_progress is not None:
            on_progress(checked, min(count * POSITIONS_PER_LEAF, len(sampled)))
    return checked, tuple(chosen), []


def _sampled_ids(receipt: Mapping[str, Any]) -> list[int]:
    """Return the answer, and the token that ended it."""
    stop = receipt["stop_token_id"]
    return [*receipt["token_ids"], *([] if stop is None else [stop])]


# ---- comparisons -----------------------------------------------------------------------------------------------------
def _compare_model(receipt: Mapping[str, Any], model: LanguageModel, identity: ModelIdentity) -> list[Difference]:
    """Compare what the receipt says of model and tokenizer with those that are loaded."""
    found = []
    for name, value in model_info(model, identity).items():
        stated = receipt["model_info"][name]
        if name != "model_path" and stated != value:
            found.append(Difference("model", None, f"{name} is {value}, the receipt says {stated}"))
    stated = receipt["tokenizer"]
    if (stated["sha256"], stated["vocab_size"]) != (identity.tokenizer_sha256, model.tokenizer.vocab_size):
        found.append(Difference("tokenizer", None, "the vocabulary is another one than that of the receipt"))
    if receipt["corrections"] != model.corrections:
        found.append(Difference("model", None, "other corrections were made to the weights than the receipt lists"))
    options = {"kv_type": model.kv_type, "max_context": model.max_context}
    if receipt["load_options"] != options:
        found.append(Difference("model", None, f"loaded with {options}, the receipt has {receipt['load_options']}"))
    return found


def _compare_leaves(ours: list[str], theirs: list[str], numbers: SequenceOf[int], n_sampled: int) -> list[Difference]:
    """Return the first leaf that differs."""
    for mine, other, number in zip(ours, theirs, numbers, strict=False):
        if mine != other:
            start = POSITIONS_PER_LEAF * number
            end = min(start + POSITIONS_PER_LEAF, n_sampled) - 1
            return [Difference("hidden state", start, f"the hidden states of tokens {start} to {end} differ")]
    return []


def _compare_tokens(sequence: Sequence, receipt: Mapping[str, Any]) -> list[Difference]:
    ours, theirs = sequence.token_ids, receipt["token_ids"]
    for position, (mine, other) in enumerate(zip(ours, theirs, strict=False)):
        if mine != other:
            return [_wrong_token(position, mine, other)]
    end = sequence.stop_token_id, sequence.finish_reason
    stated = receipt["stop_token_id"], receipt["finish_reason"]
    if len(ours) != len(theirs) or end != stated:
        message = f"the answer ends after {len(ours)} tokens by {end[1]}, the receipt says {len(theirs)} by {stated[1]}"
        return [Difference("end", min(len(ours), len(theirs)), message)]
    return []


def _wrong_token(position: int, ours: int, theirs: int) -> Difference:
    return Difference("token", position, f"token {position} is {ours}, the receipt says {theirs}")


def _first(found: list[Difference]) -> list[Difference]:
    """Return the difference at the lowest position alone; those after it follow from it."""
    return sorted(found, key=lambda difference: (difference.position is None, difference.position))[:1]
