"""Prompts that show what a model is, and the texts that it writes after them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitnet_numba.validate.language import (
    CAPITALS,
    MAX_IGNORANT,
    MAX_UNKNOWN,
    MAX_UNKNOWN_ALONE,
    judge_answers,
    judge_code,
    judge_prose,
)

if TYPE_CHECKING:
    from bitnet_numba.generate.language_model import LanguageModel

PROMPT = "The capital of France is"
N_TOKENS = 8
SEED = 42
STORIES = (
    "Once upon a time",
    "Once upon a time, there was a little girl named",
    "One day, a boy went to the",
    "The dog was very",
    "She looked at the",
)
CODE = "def factorial(n):"
_STORY_TOKENS = 64
_CODE_TOKENS = 96


@dataclass(frozen=True, slots=True)
class Probe:
    """What a model wrote.

    Attributes
    ----------
    text : str
        After ``PROMPT``, greedily, up to eight tokens.
    token_ids : list of int
    problems : list of str
        What says that this and the longer texts are no language.
    """

    text: str
    token_ids: list[int]
    problems: list[str]


def probe_model(model: "LanguageModel") -> Probe:
    """Let a model write, always greedily, and judge the texts alone.

    Eight tokens are too few to tell a damaged model by, since residual connections carry a model past one bad layer:
    stories, a function and the capitals of forty countries are written too.

    Raises
    ------
    BitNetError
        If the model cannot generate.
    """
    first = model.generate(PROMPT, max_tokens=N_TOKENS, temperature=0, seed=SEED)
    stories = _continue(model, STORIES, _STORY_TOKENS)
    answers = dict(zip(CAPITALS, _continue(model, [f"The capital of {x} is" for x in CAPITALS], N_TOKENS), strict=True))
    code = model.generate(CODE, max_tokens=_CODE_TOKENS, temperature=0, seed=SEED)
    n_right, wrong = judge_answers(answers)
    max_unknown = MAX_UNKNOWN_ALONE if n_right <= MAX_IGNORANT else MAX_UNKNOWN
    prose = judge_prose([first.text, *stories], lambda word: _is_token(model, word), max_unknown=max_unknown)
    written = judge_code(CODE, code.text, is_complete=code.finish_reason == "stop")
    return Probe(first.text, first.token_ids, [*prose, *wrong, *written])


def _continue(model: "LanguageModel", prompts: Sequence[str], n_tokens: int) -> list[str]:
    results = model.generate_batch(prompts, max_tokens=n_tokens, temperature=0, seed=SEED)
    return [result.text for result in results]


def _is_token(model: "LanguageModel", word: str) -> bool:
    """Tell whether the vocabulary has a word, with or without the space before it."""
    return any(len(model.tokenize(spelled, add_bos=False)) == 1 for spelled in (f" {word}", word))
