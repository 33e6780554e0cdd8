"""The bounded sandbox of chat templates: a program from a stranger that can neither reach out nor run away.

jinja2's own sandbox stops attribute walks but bounds nothing. Here the syntax tree is checked against a list of what
chat templates need, and loops, calls, operators and comparisons are rewritten to charge a budget.
"""

import functools
import traceback
from collections.abc import Iterator, Mapping
from types import CodeType
from typing import Any, Final, cast

import jinja2
from jinja2 import nodes, pass_context
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from bitnet_numba.errors import TemplateError
from bitnet_numba.text.sandbox.library import (
    LOOP_ATTRIBUTES,
    MAPPING_METHODS,
    MAX_OUTPUT,
    TESTS,
    TEXT_METHODS,
    Budget,
    Method,
    bounded_number,
    bounded_range,
    make_filters,
    printed,
    raise_exception,
)
from bitnet_numba.text.sandbox.tree import CONCATENATE, MADE, SPEND, WEIGHED, Meter, check_tree

MAX_SOURCE_BYTES: Final = 64 * 2**10
MAX_MACRO_DEPTH: Final = 16
MAX_REASON: Final = 500  # characters of a message

_FILE_NAME: Final = "<chat template>"


def render_template(source: str, variables: Mapping[str, Any]) -> str:
    """Render a template from a stranger.

    Blocks are trimmed as the authors of chat templates expect (``trim_blocks``, ``lstrip_blocks``).

    Parameters
    ----------
    source : str
        The template, at most 64 KiB of UTF-8.
    variables : mapping
        Plain values: text, numbers, booleans, lists, mappings.

    Raises
    ------
    TemplateError
        If the template is malformed, calls ``raise_exception``, reaches for what it may not have, or needs more than
        50,000 steps or 2**20 characters of output.
    """
    if len(source.encode("utf-8", "surrogatepass")) > MAX_SOURCE_BYTES:
        raise TemplateError(
            f"chat template: longer than {MAX_SOURCE_BYTES:,} bytes; choose another with a named template"
        )
    try:
        environment = _Environment(Budget())
        template = jinja2.Template.from_code(environment, _compile(source), environment.globals)
        return _bounded_join(template.generate(**variables))
    # A template can provoke any exception, also a RecursionError of the parser: each is the template's fault.
    except Exception as error:
        line = error.lineno if isinstance(error, jinja2.TemplateSyntaxError) else _line_of(error)
        place = f"chat template, line {line}" if line else "chat template"
        printable = "".join(letter if letter.isprintable() else " " for letter in str(error)[:MAX_REASON])
        reason = " ".join(printable.split()) or type(error).__name__
        raise TemplateError(f"{place}: {reason}") from error


@functools.lru_cache(maxsize=8)
def _compile(source: str) -> CodeType:
    return _Environment(Budget()).compile(source, "chat template", _FILE_NAME)


def _bounded_join(pieces: Iterator[str]) -> str:
    kept, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_OUTPUT:
            raise TemplateError(f"more than {MAX_OUTPUT:,} characters of output; shorten the chat")
        kept.append(piece)
    return "".join(kept)


def _line_of(error: Exception) -> int | None:
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == _FILE_NAME]
    return lines[-1] if lines else None


_FUNCTIONS: Final[Mapping[str, Any]] = {
    "range": bounded_range,
    "namespace": Namespace,
    "raise_exception": raise_exception,
}


class _Environment(ImmutableSandboxedEnvironment):
    """A jinja2 environment in which everything not allowed by name is refused, for one rendering."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    intercepted_unops = frozenset({"+", "-"})

    def __init__(self, budget: Budget) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, cache_size=0, extensions=["jinja2.ext.loopcontrols"]
        )
        self._budget = budget
        self._macro_depth = 0
        self.globals = dict(_FUNCTIONS)
        self.tests = {name: test for name, test in self.tests.items() if name in TESTS}
        self.filters = self._metered_filters()
        self.finalize = pass_context(lambda _context, value: budget.made(self._printed(value)))

    def _metered_filters(self) -> dict[str, Any]:
        filters = {name: self._strict(function) for name, function in make_filters(self._budget).items()}
        filters["default"] = filters["d"] = self._default
        filters[SPEND] = self._budget.spend
        filters[MADE] = self._budget.made
        filters[WEIGHED] = self._budget.weighed
        filters[CONCATENATE] = self._concatenate
        # A filter that wants the context is never folded into a constant while the template is compiled.
        return {name: _with_context(function) for name, function in filters.items()}

    def _strict(self, function: Any) -> Any:
        def checked(value: Any, *arguments: Any, **keywords: Any) -> Any:
            self._budget.spend(1)
            return function(_defined(value), *arguments, **keywords)

        return checked

    def _concatenate(self, parts: list[Any]) -> str:
        texts = [self._printed(part) for part in parts]
        self._budget.spend_characters(sum(map(len, texts)))
        return "".join(texts)

    def _default(self, value: Any, replacement: Any = "", also_if_false: bool = False) -> Any:
        return replacement if isinstance(value, Undefined) or (also_if_false and not value) else value

    def _printed(self, value: Any) -> str:
        return "" if isinstance(value, Undefined) else printed(value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        check_tree(tree, self)
        return cast(nodes.Template, Meter().visit(tree))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return one of the few attributes that a template may see, or the item of that name."""
        if isinstance(obj, str) and attribute in TEXT_METHODS:
            return Method(self._budget, obj, attribute)
        if isinstance(obj, Mapping):
            known = attribute in MAPPING_METHODS
            return Method(self._budget, obj, attribute) if known else self._item(obj, attribute)
        if isinstance(obj, LoopContext) and attribute in LOOP_ATTRIBUTES:
            return getattr(obj, attribute)
        if isinstance(obj, Namespace) and not attribute.startswith("_"):
            return getattr(obj, attribute, self.undefined(obj=obj, name=attribute))
        raise TemplateError(f"attribute {attribute!r} of {type(_defined(obj)).__name__} is not for templates")

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return an item of a list, a text or a mapping; a name that is missing there is undefined."""
        if isinstance(obj, Mapping) and isinstance(argument, str):
            return self._item(obj, argument)
        if isinstance(obj, str | list | tuple | range) and isinstance(argument, int):
            return self._item(obj, argument)
        if isinstance(argument, str):
            return self.getattr(obj, argument)
        raise TemplateError(f"{type(_defined(obj)).__name__}[{type(argument).__name__}] is not for templates")

    def _item(self, obj: Any, argument: str | int) -> Any:
        try:
            return obj[argument]
        except LookupError:
            return self.undefined(obj=obj, name=str(argument))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a method or one of the three functions; nothing else can be called."""
        self._budget.spend(1)
        # Compiled templates hand these two to every call inside a loop or block; only jinja2's own context wants them.
        for name in ("_loop_vars", "_block_vars"):
            kwargs.pop(name, None)
        if isinstance(_defined(function), Method) or any(function is allowed for allowed in _FUNCTIONS.values()):
            return function(*args, **kwargs)
        if not isinstance(function, Macro):
            raise TemplateError(f"a {type(function).__name__} cannot be called")
        if self._macro_depth == MAX_MACRO_DEPTH:
            raise TemplateError(f"macros call each other more than {MAX_MACRO_DEPTH} deep")
        self._macro_depth += 1
        try:
            return super().call(context, function, *args, **kwargs)
        finally:
            self._macro_depth -= 1

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Apply an arithmetic operator to two numbers, or ``+`` to two texts or two lists."""
        _defined(left), _defined(right)
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            self._budget.spend_characters(len(left) + len(right))
            return left + right
        if operator == "+" and isinstance(left, list) and isinstance(right, list):
            return self._budget.made(left + right)
        if isinstance(left, int | float) and isinstance(right, int | float):
            return bounded_number(super().call_binop(context, operator, left, right))
        raise TemplateError(f"{type(left).__name__} {operator} {type(right).__name__} is not for templates")

    def call_unop(self, context: Any, operator: str, arg: Any) -> Any:
        """Apply a sign to a number."""
        if not isinstance(_defined(arg), int | float):
            raise TemplateError(f"{operator} {type(arg).__name__} is not for templates")
        return super().call_unop(context, operator, arg)


def _with_context(function: Any) -> Any:
    return pass_context(lambda _context, *arguments, **keywords: function(*arguments, **keywords))


def _defined(value: Any) -> Any:
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    return value
