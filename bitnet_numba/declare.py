"""Declare an option in one place: its type, range, default, help text, flag and environment variable.

A frozen dataclass whose fields are made by :func:`declare` checks its values, lists its options in its docstring, and
tells the command line and the reference pages what to show.
"""

import difflib
import os
import reprlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from textwrap import fill, indent
from types import UnionType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from bitnet_numba.errors import ParameterError

_UNBOUNDED = (sys.maxsize, sys.float_info.max)
_KINDS: dict[Any, type] = {Mapping: dict, Sequence: tuple}
_FORMS: dict[type, str] = {dict: "mapping of int to float", tuple: "str or sequence of str"}
_IDS = "sequence of int"
_EXPECTED: dict[type, str] = {
    bool: "True or False",
    str: "a text",
    tuple: "one or more texts that are not empty",
    dict: "a mapping of token ids to numbers",
}
_TABLES: "dict[type, dict[str, Option]]" = {}
_TableT = TypeVar("_TableT")


@dataclass(frozen=True, slots=True)
class Option:
    """One option: which values it takes, and what users are told about it."""

    default: Any
    help: str  # whole sentences; ``{range}`` stands for the range
    note: str = ""  # what the default does ("keeps all tokens"), or what is chosen for None ("one per core")
    low: float = 0
    high: float = sys.maxsize
    above_low: bool = False  # ``low`` itself is refused
    variable: str = ""  # environment variable to read if no value is given
    metavar: str = ""  # value on the command line; without it the option exists in Python only
    short: str = ""  # short flag on the command line
    kind: type = str  # int, float, bool or str; tuple for texts or token ids, dict for numbers by token id
    items: type = str  # of a tuple: str for texts, int for token ids
    choices: tuple[str, ...] = ()  # the only values; empty: any

    @property
    def range(self) -> str:
        """The numbers taken, in words: ``0 to 20``."""
        if self.high in _UNBOUNDED:
            return f"at least {self.low}"
        return f"{'above ' if self.above_low else ''}{self.low} to {self.high}"

    @property
    def expected(self) -> str:
        """The values taken, in words: ``a whole number from 0 to 20``."""
        if self.choices:
            return " or ".join(filter(None, (", ".join(self.choices[:-1]), self.choices[-1])))
        if self.kind not in (int, float):
            return _EXPECTED[self.kind] if self.items is str else "token ids"
        joint = " of " if self.high in _UNBOUNDED else " " if self.above_low else " from "
        return f"{'a whole number' if self.kind is int else 'a number'}{joint}{self.range}"

    @property
    def remedy(self) -> str:
        """The end of an error message: ``1 keeps all tokens``."""
        shown = self._shown_default()
        return f"{shown} {self.note}" if shown and self.note else f"leave it out for {self.note or shown or 'none'}"

    @property
    def form(self) -> str:
        """The type as a docstring states it."""
        quoted = ", ".join(f'"{choice}"' for choice in self.choices)
        name = f"{{{quoted}}}" if quoted else _IDS if self.items is int else _FORMS.get(self.kind, self.kind.__name__)
        return f"{name}, optional" if self.default is None else name

    @property
    def text(self) -> str:
        """The help text, with range and default."""
        default = self._shown_default()
        if self.note:
            default = f"{default}, which {self.note}" if default else self.note
        if self.variable:
            default = f"{self.variable}, else {default}"
        text = self.help.format(range=self.range)
        return f"{text} Default: {default}." if default and self.kind is not bool else text

    def _shown_default(self) -> str:
        if isinstance(self.default, str | bool):
            return str(self.default)
        return f"{self.default:g}" if isinstance(self.default, int | float) else ""

    def checked(self, name: str, value: object, remedy: str = "") -> Any:
        """Return the value as a plain Python object; ParameterError if the option does not take it."""
        if self.kind is dict and isinstance(value, Mapping):
            token_id, number = replace(self, kind=int, low=0, high=sys.maxsize), replace(self, kind=float)
            return {
                token_id.checked(f"token id of {name}", key): number.checked(f"{name}[{key}]", item)
                for key, item in value.items()
            }
        converted = self._converted(value)
        if converted is None:
            raise ParameterError(f"{name}={reprlib.repr(value)}: expected {self.expected}; {remedy or self.remedy}")
        return converted

    def _converted(self, value: object) -> Any:
        """Return a plain value, or None for one that is not taken."""
        if self.kind in (int, float):
            return self._number(value)
        if self.items is int:
            return self._ids(value)
        if self.kind is tuple:
            texts = (value,) if isinstance(value, str) else value
            if not isinstance(texts, Sequence) or not all(isinstance(text, str) and text for text in texts):
                return None
            return tuple(texts)
        if self.kind is str and isinstance(value, os.PathLike):
            return os.fspath(value)
        return value if isinstance(value, self.kind) and (not self.choices or value in self.choices) else None

    def _ids(self, value: object) -> tuple[int, ...] | None:
        """Return a sequence of whole numbers from 0 on as plain ones."""
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            return None
        number = replace(self, kind=int, items=str)
        ids = [token_id for each in value if (token_id := number._number(each)) is not None]
        return tuple(int(token_id) for token_id in ids) if len(ids) == len(value) else None

    def _number(self, value: object) -> int | float | None:
        """Return a number in the range as one of Python's own; anything else, truth values too, as None."""
        if isinstance(value, bool) or not isinstance(value, Real):
            return None
        number = int(value) if isinstance(value, Integral) else float(value)
        if not self.low <= number <= self.high or (self.above_low and number == self.low):
            return None
        if self.kind is float:
            return float(number)
        return number if isinstance(number, int) else None


# ---- tables of options -----------------------------------------------------------------------------------------------
FOREIGN_NAMES = {
    "max_new_tokens": "max_tokens",
    "max_length": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "temp": "temperature",
    "typical_p": "top_p",
    "repeat_penalty": "repetition_penalty",
    "min_new_tokens": "min_tokens",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "top_logprobs": "logprobs",
    "prompt_lookup_num_tokens": "lookup",
    "n_threads": "threads",
    "num_threads": "threads",
    "n_ctx": "max_context",
    "max_model_len": "max_context",
    "ctx_size": "max_context",
    "type_k": "kv_type",
    "kv_cache_dtype": "kv_type",
}
"""Names that transformers, vLLM, llama.cpp and Ollama have for options of this program."""


def declare(default: Any, help: str, note: str = "", **facts: Any) -> Any:  # noqa: A002 - as click names it
    """Declare a field of a table, with further attributes of :class:`Option`; its type is that of the field."""
    metadata = {"option": Option(default, help, note, **facts)}
    if default == {}:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def options_of(table: type) -> dict[str, Option]:
    """Return the options that a table declares, by name."""
    return _TABLES[table]


def _typed(declared: Option, annotation: Any) -> Option:
    if get_origin(annotation) is UnionType:  # with None
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        choices = get_args(annotation)
        return replace(declared, choices=choices, metavar="|".join(choices))
    items = int if annotation == Sequence[int] else str
    return replace(declared, kind=_KINDS.get(get_origin(annotation), annotation), items=items)


def option_table(table: type[_TableT]) -> type[_TableT]:
    """Make a dataclass of declared fields a table of options, and list them in its docstring."""
    _TABLES[table] = {each.name: _typed(each.metadata["option"], each.type) for each in fields(cast(Any, table))}
    rows = (f"{name} : {each.form}\n{indent(fill(each.text, 112), '    ')}" for name, each in _TABLES[table].items())
    raises = "Raises\n------\nParameterError\n    If a value is out of its range."
    table.__doc__ = "\n".join([f"{table.__doc__}\n", "Parameters", "----------", *rows, "", raises])
    return table


def from_arguments(table: type[_TableT], arguments: Mapping[str, Any]) -> _TableT:
    """Return a table with these values; ParameterError for a name that it does not have, with one that it has."""
    names = options_of(table)
    for name in arguments:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1, 0.6)
            known = FOREIGN_NAMES.get(name) or (close[0] if close else None)
            remedy = f"did you mean {known}?" if known in names else f"known are {', '.join(names)}"
            raise ParameterError(f"{name}: no such parameter; {remedy}")
    return table(**arguments)


def check(options: object) -> None:
    """Check each value of a table and store it as a plain one; None is a value only where it is the default."""
    for name, declared in options_of(type(options)).items():
        value = getattr(options, name)
        if value is not None or declared.default is not None:
            object.__setattr__(options, name, declared.checked(name, value))
