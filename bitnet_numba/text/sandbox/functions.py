"""Everything a chat template may call: methods of text and mappings, filters, ``range``; each charges a budget."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

from jinja2.filters import do_title
from jinja2.runtime import Undefined
from jinja2.utils import Namespace
from markupsafe import escape

from bitnet_numba.errors import TemplateError

MAX_STEPS: Final = 50_000
MAX_CHARACTERS: Final = 64 * 2**20
MAX_OUTPUT: Final = 2**20
MAX_RANGE: Final = 10_000
MAX_PATTERN: Final = 256
MAX_INTEGER: Final = 2**63
ITEMS_PER_STEP: Final = 16

TEXT_METHODS: Final = (
    *("capitalize", "count", "endswith", "find", "isalpha", "isdigit", "isspace", "lower", "lstrip", "replace"),
    *("rfind", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper"),
)
MAPPING_METHODS: Final = ("get", "items", "keys", "values")
LOOP_ATTRIBUTES: Final = (
    *("depth", "depth0", "first", "index", "index0", "last", "length"),
    *("nextitem", "previtem", "revindex", "revindex0"),
)
TESTS: Final = (
    *("boolean", "defined", "eq", "equalto", "even", "false", "float", "integer", "iterable", "mapping", "none"),
    *("number", "odd", "sequence", "string", "true", "undefined", "in", "sameas"),
    *("ne", "gt", "greaterthan", "ge", "lt", "lessthan", "le", "lower", "upper"),
)
_CONVERSION: Final = re.compile(r"%(?:\(\w{1,64}\))?[-+ #0]*\d{0,3}(?:\.\d{1,3})?[diouxXeEfFgGcrs%]", re.ASCII)
_MAX_CONVERTED: Final = 1000  # characters that width and precision can make of a number
_DIRECTIVE: Final = re.compile(r"%[-_^#]?[A-Za-z%]", re.ASCII)

Value = TypeVar("Value")
_SIZED: Final = (str, list, tuple, dict, range)


class Budget:
    """Steps and characters that one rendering may spend; beyond a limit each method raises a TemplateError.

    A step is a loop iteration, a call, 16 template nodes of a loop's body or 16 items of a list. Characters are counted
    for each text that is made or searched.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._characters = 0

    def spend(self, steps: int) -> bool:
        """Charge steps; always true, so that it can stand in a condition."""
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise TemplateError(f"more than {MAX_STEPS:,} steps; shorten the chat or the template's loops")
        return True

    def spend_characters(self, n_characters: int) -> None:
        """Charge a text before it is made."""
        if n_characters > MAX_OUTPUT:
            raise TemplateError(f"makes a text of {n_characters:,} characters; at most {MAX_OUTPUT:,}")
        self._handle(n_characters)

    def searched(self, text: str, pattern: str | None) -> None:
        """Charge a search by both lengths, since ``rfind`` and ``strip`` of Python can take their product."""
        length = len(pattern or "")
        if length > MAX_PATTERN:
            raise TemplateError(f"looks for a text of {length:,} characters; at most {MAX_PATTERN:,}")
        self._handle(len(text) * (1 + length // 16))

    def _handle(self, n_characters: int) -> None:
        self._characters += n_characters
        if self._characters > MAX_CHARACTERS:
            raise TemplateError(f"handles more than {MAX_CHARACTERS:,} characters; shorten the chat or the template")

    def made(self, value: Value) -> Value:
        """Charge a value without its items, and return it."""
        if isinstance(value, str):
            self.spend_characters(len(value))
        elif isinstance(value, list | tuple | dict | range):
            self.spend(len(value) // ITEMS_PER_STEP)
        return value

    def weighed(self, value: Value, *, only_plain: bool = False) -> Value:
        """Charge a value with all that it contains, as often as it is reached, and return it.

        ``only_plain`` refuses all but text, numbers, None, lists and mappings.
        """
        stack: list[Any] = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                self.spend_characters(len(item))
            elif isinstance(item, Mapping):
                self.spend(1 + len(item))
                stack += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                self.spend(1 + len(item))
                stack += item
            elif only_plain:
                printed(item)
        return value


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A bound method of a text or a mapping that charges the budget; templates see none of its attributes."""

    budget: Budget
    owner: str | Mapping[str, Any]
    name: str

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if keywords.keys() - {"maxsplit"} or not all(isinstance(a, str | int | None) for a in arguments):
            raise TemplateError(f"{self.name}(): takes plain text and numbers only")
        method = getattr(self.owner, self.name)
        if isinstance(self.owner, Mapping):
            result = method(*arguments, **keywords)
            return self.budget.made(result if self.name == "get" else list(result))
        is_replacement = self.name == "replace"
        for pattern in ("", *(arguments[:1] if is_replacement else arguments)):
            if isinstance(pattern, str):
                self.budget.searched(self.owner, pattern)
        if is_replacement:
            self._charge_replacement(self.owner, *arguments)
        return self.budget.made(method(*arguments, **keywords))

    def _charge_replacement(self, text: str, old: Any, new: Any, count: Any = -1) -> None:
        """Charge the result of ``str.replace`` before it is made."""
        if not (isinstance(old, str) and isinstance(new, str) and isinstance(count, int)):
            raise TemplateError("replace: takes two texts and a count")
        found = text.count(old)
        self.budget.spend_characters(len(text) + (found if count < 0 else min(found, count)) * (len(new) - len(old)))


@dataclass(frozen=True, slots=True, eq=False)
class Cycle:
    """``loop.cycle``: the value whose turn it is."""

    index: int

    def __call__(self, *values: Any) -> Any:
        if not values:
            raise TemplateError("loop.cycle(): needs at least one value")
        return values[self.index % len(values)]


def new_mapping(pairs: Any = (), **named: Any) -> dict[str, Any]:
    """Make a mapping as ``dict()`` does; its keys are text, since hashing a nested key takes unbounded time."""
    items = list(pairs.items()) if isinstance(pairs, Mapping) else list(pairs)
    for pair in items:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TemplateError("dict() and namespace(): take a mapping, or pairs of a text and a value")
    return {**dict(items), **named}


def new_namespace(pairs: Any = (), **named: Any) -> Namespace:
    """Make a namespace; arguments as for ``dict()``."""
    return Namespace(new_mapping(pairs, **named))


def format_time(now: datetime, form: Any) -> str:
    """Return a time in the form of ``strftime``; no directive has a width."""
    if not isinstance(form, str) or len(form) > MAX_PATTERN or "%" in _DIRECTIVE.sub("", form):
        raise TemplateError(f"strftime_now(): takes a text of at most {MAX_PATTERN:,} characters with plain directives")
    return now.strftime(form)


def divisible_by(value: Any, number: Any) -> bool:
    """Return whether a whole number is a multiple of another."""
    if not (isinstance(value, int) and isinstance(number, int)):
        raise TemplateError("divisibleby: works on whole numbers")
    return value % number == 0


def format_text(budget: Budget, form: str, values: Any) -> str:
    """Return ``form % values``: text and numbers, in a tuple or by name; a width has at most three digits."""
    named = values.values() if isinstance(values, Mapping) else values
    each = named if isinstance(values, Mapping | tuple) else (values,)
    longest = max((len(printed(value)) for value in each), default=0)
    if "%" in _CONVERSION.sub("", form):
        raise TemplateError("format: takes plain conversions such as %s and %5.1f")
    budget.spend_characters(len(form) + len(_CONVERSION.findall(form)) * (longest + _MAX_CONVERTED))
    return str(form % values)


def bounded_range(*bounds: int) -> range:
    """Return a range of at most ``MAX_RANGE`` numbers."""
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        raise TemplateError(f"range() of {len(numbers):,} numbers; at most {MAX_RANGE:,}")
    return numbers


def fail(message: Any = "") -> None:
    """Stop the rendering at the template's request."""
    raise TemplateError(printed(message))


def printed(value: Any, budget: Budget | None = None) -> str:
    """Return a plain value as a template prints it; lists and mappings only where a budget can be charged."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if budget is not None and isinstance(value, list | tuple | dict):
        return str(budget.weighed(value, only_plain=True))
    raise TemplateError(f"prints a {type(value).__name__}; only plain values can be printed")


def defined(value: Any) -> Any:
    """Return a value; refuse an undefined one in jinja2's words."""
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    return value


def make_filters(budget: Budget) -> dict[str, Callable[..., Any]]:
    """Return all filters by name, except ``default``; each charges ``budget``."""

    def to_list(value: Any) -> list[Any]:
        budget.spend(len(value) // ITEMS_PER_STEP)
        return list(value)

    def join(value: Any, separator: str = "") -> str:
        parts = [printed(item) for item in budget.made(value)]
        budget.spend(len(parts) // ITEMS_PER_STEP)
        budget.spend_characters(sum(map(len, parts)) + len(separator) * len(parts))
        return separator.join(parts)

    def to_json(value: Any, indent: int | None = None) -> str:
        if indent is not None and not 0 <= indent <= 8:
            raise TemplateError("tojson: indent must be from 0 to 8")
        return budget.made(json.dumps(budget.weighed(value), ensure_ascii=False, indent=indent))

    def to_integer(value: Any, default: int = 0) -> int:
        try:
            return int(value)
        except (TypeError, ValueError, OverflowError):
            return default

    def format_filter(form: str, *values: Any, **named: Any) -> str:
        return format_text(budget, form, named or values)

    def call_method(name: str, owner: Any, *arguments: Any) -> Any:
        return Method(budget, owner, name)(*arguments)

    methods = {"trim": "strip", "replace": "replace", "upper": "upper", "lower": "lower", "capitalize": "capitalize"}
    of_lists: dict[str, Callable[..., Any]] = {
        "first": lambda value: value[0],
        "last": lambda value: value[-1],
        "length": len,
        "count": len,
        "list": to_list,
        "join": join,
    }

    def metered(name: str, function: Callable[..., Any], types: Any = object, named: str = "") -> Callable[..., Any]:
        def checked(value: Any, *arguments: Any, **keywords: Any) -> Any:
            budget.spend(1)
            if not isinstance(defined(value), types):
                raise TemplateError(f"filter {name!r} works on {named}, not on {type(value).__name__}")
            return function(value, *arguments, **keywords)

        return checked

    return {
        **{name: metered(name, partial(call_method, method), str, "text") for name, method in methods.items()},
        **{name: metered(name, function, _SIZED, "text and lists") for name, function in of_lists.items()},
        "items": metered("items", partial(call_method, "items"), Mapping, "a mapping"),
        "string": metered("string", lambda value: budget.made(printed(value, budget))),
        "tojson": metered("tojson", to_json),
        "format": metered("format", format_filter, str, "text"),
        "title": metered("title", lambda text: budget.made(do_title(budget.made(text))), str, "text"),
        **dict.fromkeys(("e", "escape"), metered("escape", lambda value: budget.made(str(escape(printed(value)))))),
        "safe": metered("safe", lambda value: budget.made(printed(value))),
        "reverse": metered("reverse", lambda value: budget.made(value[::-1]), str | list | tuple, "text and lists"),
        "int": metered("int", to_integer),
    }
