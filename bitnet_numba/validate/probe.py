"""Generation probe: prompt a model greedily with stories, capitals and code, and judge what it writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitnet_numba.validate import language

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
    """The text and token ids that follow ``PROMPT``, at most 8 tokens, and the problems of all generated texts."""

    text: str
    token_ids: list[int]
    problems: list[str]


def probe_model(model: "LanguageModel") -> Probe:
    """Generate the probe's texts greedily, and judge them by the texts alone.

    Eight tokens do not reveal a damaged model, since residual connections carry a model past one bad layer. So it also
    continues stories, a function and the capitals of forty countries.
    """

    def continued(prompts: Sequence[str], n_tokens: int) -> list[str]:
        results = model.generate_batch(prompts, max_tokens=n_tokens, temperature=0, seed=SEED)
        return [result.text for result in results]

    def is_token(word: str) -> bool:
        return any(len(model.tokenize(spelled, add_bos=False)) == 1 for spelled in (f" {word}", word))

    first = model.generate(PROMPT, max_tokens=N_TOKENS, temperature=0, seed=SEED)
    stories = continued(STORIES, _STORY_TOKENS)
    capitals = continued([f"The capital of {country} is" for country in language.CAPITALS], N_TOKENS)
    code = model.generate(CODE, max_tokens=_CODE_TOKENS, temperature=0, seed=SEED)
    n_right, wrong = language.judge_answers(dict(zip(language.CAPITALS, capitals, strict=True)))
    max_unknown = language.MAX_UNKNOWN_ALONE if n_right <= language.MAX_IGNORANT else language.MAX_UNKNOWN
    prose = language.judge_prose([first.text, *stories], is_token, max_unknown=max_unknown)
    invalid = language.judge_code(CODE, code.text, is_complete=code.finish_reason == "stop_token")
    return Probe(first.text, first.token_ids, [*prose, *wrong, *invalid])
