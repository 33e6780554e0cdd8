"""Render untrusted chat templates within bounds on time, memory and what they can reach.

jinja2's own sandbox stops attribute walks but bounds nothing. Here only listed kinds of syntax are accepted, and the
syntax tree is rewritten so that loops, calls, operators and comparisons charge a budget.
"""

import functools
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime
from types import CodeType
from typing import Any, Final, cast

import jinja2
from jinja2 import nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from bitnet_numba.errors import TemplateError
from bitnet_numba.text.sandbox import functions
from bitnet_numba.text.sandbox.selection import make_selections
from bitnet_numba.text.sandbox.tree import CONCATENATE, MADE, SPEND, WEIGHED, Meter, check_tree

MAX_SOURCE_BYTES: Final = 64 * 2**10
MAX_MACRO_DEPTH: Final = 16
MAX_REASON: Final = 500  # characters of a message

_FILE_NAME: Final = "<chat template>"


def render_template(source: str, variables: Mapping[str, Any], now: datetime | None = None) -> str:
    """Render an untrusted template of at most 64 KiB with plain values: text, numbers, booleans, lists, mappings.

    ``now`` is what ``strftime_now`` tells, by default the time of the call.
    Raises a TemplateError if the template is malformed, calls ``raise_exception``, uses what is not allowed, or needs
    more than 50,000 steps or 2**20 characters of output.
    """
    if len(source.encode("utf-8", "surrogatepass")) > MAX_SOURCE_BYTES:
        raise TemplateError(
            f"chat template: longer than {MAX_SOURCE_BYTES:,} bytes; choose another with a named template"
        )
    try:
        environment = _Environment(functions.Budget(), now)
        template = jinja2.Template.from_code(environment, _compile(source), environment.globals)
        parts, size = [], 0
        for part in template.generate(**variables):
            size += len(part)
            if size > functions.MAX_OUTPUT:
                raise TemplateError(f"more than {functions.MAX_OUTPUT:,} characters of output; shorten the chat")
            parts.append(part)
        return "".join(parts)
    # A template can cause any exception, even a RecursionError in the parser.
    except Exception as error:
        line = error.lineno if isinstance(error, jinja2.TemplateSyntaxError) else _line_of(error)
        place = f"chat template, line {line}" if line else "chat template"
        printable = "".join(letter if letter.isprintable() else " " for letter in str(error)[:MAX_REASON])
        reason = " ".join(printable.split()) or type(error).__name__
        raise TemplateError(f"{place}: {reason}") from error


@functools.lru_cache(maxsize=8)
def _compile(source: str) -> CodeType:
    return _Environment(functions.Budget()).compile(source, "chat template", _FILE_NAME)


def _line_of(error: Exception) -> int | None:
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == _FILE_NAME]
    return lines[-1] if lines else None


_GLOBALS: Final = {
    "range": functions.bounded_range,
    "namespace": functions.new_namespace,
    "dict": functions.new_mapping,
    "raise_exception": functions.fail,
}


class _Generation(Extension):
    """``{% generation %}``: transformers marks an answer with it for training; it renders what it holds."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the block's body in a scope of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    """The jinja2 environment of one rendering; it refuses all that is not allowed by name."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    intercepted_unops = frozenset({"+", "-"})

    def __init__(self, budget: functions.Budget, now: datetime | None = None) -> None:
        extensions = ["jinja2.ext.loopcontrols", _Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, cache_size=0, extensions=extensions)
        self._budget = budget
        self._macro_depth = 0
        told = datetime.now() if now is None else now
        self.globals = {**_GLOBALS, "strftime_now": functools.partial(functions.format_time, told)}
        self.tests = {name: test for name, test in self.tests.items() if name in functions.TESTS}
        self.tests["divisibleby"] = functions.divisible_by
        filters: dict[str, Callable[..., Any]] = {"default": _default, "d": _default}
        filters |= functions.make_filters(budget)
        filters |= make_selections(budget, self.getitem, dict(filters), self.tests)
        filters |= {CONCATENATE: self._concatenate}
        filters |= {SPEND: budget.spend, MADE: budget.made, WEIGHED: budget.weighed}
        # jinja2 never folds a filter into a constant at compile time if it takes the context.
        self.filters = {name: _with_context(function) for name, function in filters.items()}
        self.finalize = _with_context(lambda value: budget.made(_printed(value, budget)))

    def _concatenate(self, parts: list[Any]) -> str:
        texts = [_printed(part, self._budget) for part in parts]
        self._budget.spend_characters(sum(map(len, texts)))
        return "".join(texts)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        check_tree(tree, self)
        return cast(nodes.Template, Meter().visit(tree))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return an allowed attribute, or the item of that name."""
        if isinstance(obj, str) and attribute in functions.TEXT_METHODS:
            return functions.Method(self._budget, obj, attribute)
        if isinstance(obj, Mapping) and attribute in functions.MAPPING_METHODS:
            return functions.Method(self._budget, obj, attribute)
        if isinstance(obj, Mapping):
            return self._item(obj, attribute)
        if isinstance(obj, LoopContext) and attribute in functions.LOOP_ATTRIBUTES:
            return getattr(obj, attribute)
        if isinstance(obj, LoopContext) and attribute == "cycle":
            return functions.Cycle(obj.index0)
        if isinstance(obj, Namespace) and not attribute.startswith("_"):
            return getattr(obj, attribute, self.undefined(obj=obj, name=attribute))
        raise TemplateError(f"attribute {attribute!r} of {type(functions.defined(obj)).__name__} is not for templates")

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return an item of a list, text or mapping; a missing name is undefined."""
        is_key = isinstance(obj, Mapping) and isinstance(argument, str)
        if is_key or (isinstance(obj, str | list | tuple | range) and isinstance(argument, int)):
            return self._item(obj, argument)
        if isinstance(argument, str):
            return self.getattr(obj, argument)
        raise TemplateError(f"{type(functions.defined(obj)).__name__}[{type(argument).__name__}] is not for templates")

    def _item(self, obj: Any, argument: str | int) -> Any:
        try:
            return obj[argument]
        except LookupError:
            return self.undefined(obj=obj, name=str(argument))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, an allowed method or one of the global functions."""
        self._budget.spend(1)
        # Compiled templates pass these two to each call inside a loop or block, for jinja2's own context only.
        for name in ("_loop_vars", "_block_vars"):
            kwargs.pop(name, None)
        is_global = any(functions.defined(function) is allowed for allowed in self.globals.values())
        if is_global or isinstance(function, functions.Method | functions.Cycle):
            return self._budget.made(function(*args, **kwargs))
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
        """Apply an arithmetic operator to numbers, ``+`` to texts or lists, or ``%`` to a text."""
        functions.defined(left), functions.defined(right)
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            self._budget.spend_characters(len(left) + len(right))
            return left + right
        if operator == "%" and isinstance(left, str):
            return functions.format_text(self._budget, left, right)
        if operator == "+" and isinstance(left, list) and isinstance(right, list):
            return self._budget.made(left + right)
        if isinstance(left, int | float) and isinstance(right, int | float):
            result = super().call_binop(context, operator, left, right)
            if isinstance(result, int) and abs(result) >= functions.MAX_INTEGER:
                raise TemplateError("a whole number beyond 64 bits")
            return result
        raise TemplateError(f"{type(left).__name__} {operator} {type(right).__name__} is not for templates")

    def call_unop(self, context: Any, operator: str, arg: Any) -> Any:
        """Apply a sign to a number."""
        if not isinstance(functions.defined(arg), int | float):
            raise TemplateError(f"{operator} {type(arg).__name__} is not for templates")
        return super().call_unop(context, operator, arg)


def _with_context(function: Any) -> Any:
    return pass_context(lambda _context, *arguments, **keywords: function(*arguments, **keywords))


def _default(value: Any, replacement: Any = "", also_if_false: bool = False) -> Any:
    return replacement if isinstance(value, Undefined) or (also_if_false and not value) else value


def _printed(value: Any, budget: functions.Budget) -> str:
    return "" if isinstance(value, Undefined) else functions.printed(value, budget)
