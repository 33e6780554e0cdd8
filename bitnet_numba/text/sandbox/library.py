"""What a chat template may compute with: a budget, and the text methods and filters that spend it."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from bitnet_numba.errors import TemplateError

MAX_STEPS: Final = 50_000
MAX_CHARACTERS: Final = 64 * 2**20
MAX_OUTPUT: Final = 2**20
MAX_RANGE: Final = 10_000
MAX_PATTERN: Final = 256
MAX_INTEGER: Final = 2**63
ITEMS_PER_STEP: Final = 16

TEXT_METHODS: Final = frozenset(
    {
        *("capitalize", "count", "endswith", "find", "isalpha", "isdigit", "isspace", "lower", "lstrip", "replace"),
        *("rfind", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper"),
    }
)
MAPPING_METHODS: Final = frozenset({"get", "items", "keys", "values"})
LOOP_ATTRIBUTES: Final = frozenset(
    {
        *("depth", "depth0", "first", "index", "index0", "last", "length"),
        *("nextitem", "previtem", "revindex", "revindex0"),
    }
)
TESTS: Final = frozenset(
    {
        *("boolean", "defined", "eq", "equalto", "even", "false", "float", "integer", "iterable", "mapping", "none"),
        *("number", "odd", "sequence", "string", "true", "undefined"),
    }
)

Value = TypeVar("Value")


class Budget:
    """Count what one rendering costs, and stop it where a limit is passed.

    A step is a loop turn, a call, 16 template nodes of a loop's body or 16 items of a list. Characters are counted once
    for each text that is made or searched.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._characters = 0

    def spend(self, steps: int) -> bool:
        """Charge a number of steps; always true, so that a condition can hold it.

        Raises
        ------
        TemplateError
            If the rendering has used up its steps.
        """
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise TemplateError(f"more than {MAX_STEPS:,} steps; shorten the chat or the template's loops")
        return True

    def spend_characters(self, n_characters: int) -> None:
        """Charge text that is about to be made or searched.

        Raises
        ------
        TemplateError
            If one text, or all of them together, are too long.
        """
        if n_characters > MAX_OUTPUT:
            raise TemplateError(f"makes a text of {n_characters:,} characters; at most {MAX_OUTPUT:,}")
        self._handle(n_characters)

    def searched(self, text: str, pattern: str | None) -> None:
        """Charge a search, whose time can grow with both lengths: Python looks backwards, and strips, naively.

        Raises
        ------
        TemplateError
            If the pattern is long, or too much was searched.
        """
        length = len(pattern or "")
        if length > MAX_PATTERN:
            raise TemplateError(f"looks for a text of {length:,} characters; at most {MAX_PATTERN:,}")
        self._handle(len(text) * (1 + length // 16))

    def _handle(self, n_characters: int) -> None:
        self._characters += n_characters
        if self._characters > MAX_CHARACTERS:
            raise TemplateError(f"handles more than {MAX_CHARACTERS:,} characters; shorten the chat or the template")

    def made(self, value: Value) -> Value:
        """Charge a value for its own size, not for what its items hold, and return it."""
        if isinstance(value, str):
            self.spend_characters(len(value))
        elif isinstance(value, list | tuple | dict | range):
            self.spend(len(value) // ITEMS_PER_STEP)
        return value

    def weighed(self, value: Value) -> Value:
        """Charge a value with everything inside it, once for each time it is reached, and return it."""
        waiting: list[Any] = [value]
        while waiting:
            item = waiting.pop()
            if isinstance(item, str):
                self.spend_characters(len(item))
            elif isinstance(item, Mapping):
                self.spend(1 + len(item))
                waiting += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple):
                self.spend(1 + len(item))
                waiting += item
        return value


class Method:
    """A method of a text or a mapping, as a template gets hold of it: bound, charged, and without attributes."""

    __slots__ = ("_budget", "_name", "_owner")

    def __init__(self, budget: Budget, owner: str | Mapping[str, Any], name: str) -> None:
        self._budget = budget
        self._owner = owner
        self._name = name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if keywords.keys() - {"maxsplit"} or not all(isinstance(a, str | int | None) for a in arguments):
            raise TemplateError(f"{self._name}(): takes plain text and numbers only")
        if isinstance(self._owner, str) and self._name == "replace":
            return replace(self._budget, self._owner, *arguments)
        for pattern in ("", *arguments):
            if isinstance(self._owner, str) and isinstance(pattern, str):
                self._budget.searched(self._owner, pattern)
        result = getattr(self._owner, self._name)(*arguments, **keywords)
        if not isinstance(self._owner, str) and self._name != "get":
            result = list(result)
        return self._budget.made(result)


def replace(budget: Budget, text: str, old: Any, new: Any, count: Any = -1) -> str:
    """Replace as ``str.replace`` does, after the result's size is known to be allowed."""
    if not (isinstance(old, str) and isinstance(new, str) and isinstance(count, int)):
        raise TemplateError("replace: takes two texts and a count")
    budget.searched(text, old)
    occurrences = text.count(old)
    if 0 <= count < occurrences:
        occurrences = count
    budget.spend_characters(len(text) + occurrences * (len(new) - len(old)))
    return text.replace(old, new, count)


def bounded_range(*bounds: int) -> range:
    """Return a range that is short enough to be walked."""
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        raise TemplateError(f"range() of {len(numbers):,} numbers; at most {MAX_RANGE:,}")
    return numbers


def bounded_number(value: Any) -> Any:
    """Return a number that fits in 64 bits, or any float."""
    if isinstance(value, int) and abs(value) >= MAX_INTEGER:
        raise TemplateError("a whole number beyond 64 bits")
    return value


def raise_exception(message: Any = "") -> None:
    """Stop the rendering because the template says so."""
    raise TemplateError(printed(message))


def printed(value: Any) -> str:
    """Return a plain value as a template prints it.

    Raises
    ------
    TemplateError
        If the value is a container or a function, whose printed form says nothing to a model.
    """
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    raise TemplateError(f"prints a {type(value).__name__}; only text and numbers can be printed (or use tojson)")


def make_filters(budget: Budget) -> dict[str, Callable[..., Any]]:
    """Return every filter that a template may use, by name, each charging ``budget``."""

    def trim(value: Any, characters: Any = None) -> str:
        if not isinstance(characters, str | None):
            raise TemplateError("trim: takes the characters to remove as one text")
        budget.searched(_text("trim", value), characters)
        return str(value).strip(characters)

    def length(value: Any) -> int:
        return len(_sized("length", value))

    def to_list(value: Any) -> list[Any]:
        budget.spend(len(_sized("list", value)) // ITEMS_PER_STEP)
        return list(value)

    def join(value: Any, separator: str = "") -> str:
        parts = [printed(item) for item in budget.made(_sized("join", value))]
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

    filters: dict[str, Callable[..., Any]] = {
        "trim": trim,
        "replace": lambda value, *arguments: replace(budget, _text("replace", value), *arguments),
        "string": lambda value: budget.made(printed(value)),
        "first": lambda value: _sized("first", value)[0],
        "last": lambda value: _sized("last", value)[-1],
        "items": lambda value: Method(budget, _mapping("items", value), "items")(),
        "length": length,
        "count": length,
        "list": to_list,
        "join": join,
        "tojson": to_json,
        "int": to_integer,
    }
    for name in ("upper", "lower", "capitalize"):
        filters[name] = _text_filter(budget, name)
    return filters


def _text_filter(budget: Budget, name: str) -> Callable[[Any], str]:
    return lambda value: budget.made(str(getattr(_text(name, value), name)()))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TemplateError(f"filter {name!r} works on text, not on {type(value).__name__}")
    return value


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TemplateError(f"filter {name!r} works on a mapping, not on {type(value).__name__}")
    return value


def _sized(name: str, value: Any) -> Any:
    if not isinstance(value, str | list | tuple | dict | range):
        raise TemplateError(f"filter {name!r} works on text and lists, not on {type(value).__name__}")
    return value
