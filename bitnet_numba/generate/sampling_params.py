"""What may be asked of the choice of tokens, and the sampler that makes it."""

import reprlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import NamedTuple, TypedDict

from bitnet_numba.errors import ParameterError

MOST_PROPOSED = 15  # with the token before them they are 16, for whose logits the exact head has a screen


class SamplingOptions(TypedDict, total=False):
    """The fields of :class:`SamplingParams`, as keyword arguments."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    stop: Sequence[str]
    logprobs: int | None
    ignore_eos: bool
    lookup: int


class _Range(NamedTuple):
    """Which numbers a parameter takes."""

    kind: type[int] | type[float]
    low: float
    high: float
    remedy: str
    low_excluded: bool = False

    def checked(self, name: str, value: object) -> int | float:
        """Give the value as a plain int or float, or refuse it."""
        number = _plain(value)
        if number is not None and self._holds(number):
            return self.kind(number)
        raise ParameterError(f"{name}={reprlib.repr(value)}: expected {self}; {self.remedy}")

    def _holds(self, number: float) -> bool:
        if self.kind is int and not isinstance(number, int):
            return False
        return self.low <= number <= self.high and not (self.low_excluded and number == self.low)

    def __str__(self) -> str:
        noun = "a whole number" if self.kind is int else "a number"
        if self.high in (sys.maxsize, sys.float_info.max):
            return f"{noun} of at least {self.low}"
        return f"{noun} {'above' if self.low_excluded else 'from'} {self.low} to {self.high}"


def _plain(value: object) -> int | float | None:
    """Turn a number of any type into one of Python's own; anything else, truth values too, into ``None``."""
    if isinstance(value, bool):
        return None
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else None


_RANGES = {
    "max_tokens": _Range(int, 1, sys.maxsize, "ask for one token or more"),
    "temperature": _Range(float, 0, sys.float_info.max, "0 takes the likeliest token"),
    "top_k": _Range(int, 0, sys.maxsize, "0 keeps all tokens"),
    "top_p": _Range(float, 0, 1, "1 keeps all tokens", low_excluded=True),
    "min_p": _Range(float, 0, 1, "0 keeps all tokens"),
    "repetition_penalty": _Range(float, 0.01, 100, "1 turns it off"),
    "frequency_penalty": _Range(float, -2, 2, "0 turns it off"),
    "presence_penalty": _Range(float, -2, 2, "0 turns it off"),
    "seed": _Range(int, 0, 2**64 - 1, "leave it out for a new one every time"),
    "logprobs": _Range(int, 0, 20, "leave it out for none"),
    "lookup": _Range(int, 0, MOST_PROPOSED, "0 takes one token a step"),
}
_MAY_BE_NONE = ("seed", "logprobs")
_TOKEN_ID = _Range(int, 0, sys.maxsize, "use ids that tokenize gives")
_BIAS = _Range(float, -100, 100, "-100 all but forbids a token")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen and when to stop; the defaults take the likeliest token and change nothing.

    Parameters
    ----------
    max_tokens : int
        The most tokens to generate, at least 1.
    temperature : float
        Divides the logits; 0 takes the likeliest token, ties going to the lower id.
    top_k : int
        Keep this many of the likeliest tokens; 0 keeps all.
    top_p : float
        Keep the fewest of the likeliest tokens that together reach this share of the probability: above 0, up to 1.
    min_p : float
        Drop tokens less likely than this share of the likeliest one's probability: 0 to 1.
    repetition_penalty : float
        For tokens of the prompt and the answer: positive logits are divided by it, others multiplied; 0.01 to 100.
    frequency_penalty, presence_penalty : float
        Taken from the logits of tokens of the answer, for each time they occur and once; -2 to 2.
    logit_bias : mapping of int to float
        Added to the logits of these token ids; -100 to 100.
    seed : int, optional
        Of the random draws: the same seed gives the same text, on any CPU. ``None`` takes a new one every time.
    stop : str or sequence of str
        Texts that end the generation; they are no part of its text.
    logprobs : int, optional
        Record each token's log probability, and those of this many of the likeliest tokens (0 to 20), as the model
        gave them: before any of the changes above.
    ignore_eos : bool
        Do not stop at the model's end-of-sequence tokens.
    lookup : int
        Propose up to this many tokens a step (0 to 15), copied from where the text has been like this before, and take
        those that would have been chosen anyway: the result is the same, and sooner there where texts repeat.

    Raises
    ------
    ParameterError
        If a value is out of its range.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: Sequence[str] = ()
    logprobs: int | None = None
    ignore_eos: bool = False
    lookup: int = 0

    def __post_init__(self) -> None:
        for name, allowed in _RANGES.items():
            value = getattr(self, name)
            if value is not None or name not in _MAY_BE_NONE:
                object.__setattr__(self, name, allowed.checked(name, value))
        object.__setattr__(self, "logit_bias", _checked_bias(self.logit_bias))
        object.__setattr__(self, "stop", _checked_stop(self.stop))
        if not isinstance(self.ignore_eos, bool):
            raise ParameterError(f"ignore_eos={reprlib.repr(self.ignore_eos)}: expected True or False")


def _checked_bias(logit_bias: object) -> dict[int, float]:
    if not isinstance(logit_bias, Mapping):
        raise ParameterError(f"logit_bias={reprlib.repr(logit_bias)}: expected a mapping of token ids to numbers")
    return {
        int(_TOKEN_ID.checked("token id of logit_bias", token_id)): _BIAS.checked(f"logit_bias[{token_id}]", bias)
        for token_id, bias in logit_bias.items()
    }


def _checked_stop(stop: object) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stops, Sequence) or not all(isinstance(text, str) and text for text in stops):
        raise ParameterError(f"stop={reprlib.repr(stop)}: expected one or more texts that are not empty")
    return tuple(stops)
