"""Filters that apply another filter or a test to each item of a list: ``map``, ``select``, ``reject`` and their kin."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from jinja2.runtime import Undefined

from bitnet_numba.errors import TemplateError
from bitnet_numba.text.sandbox.functions import Budget, defined

Function = Callable[..., Any]
_LISTS: Final = (list, tuple, str, dict, range)


def make_selections(
    budget: Budget, get_item: Callable[[Any, Any], Any], filters: Mapping[str, Any], tests: Mapping[str, Any]
) -> dict[str, Function]:
    """Return these filters by name; ``get_item`` reads an attribute or item as a template does."""

    def attribute_of(item: Any, path: Any) -> Any:
        for part in str(path).split("."):
            item = get_item(item, int(part) if part.isdecimal() else part)
        return item

    def items_of(name: str, value: Any) -> list[Any]:
        if not isinstance(defined(value), _LISTS):
            raise TemplateError(f"filter {name!r} works on lists, not on {type(value).__name__}")
        budget.spend(1 + len(value))
        return list(value)

    def known(kind: str, name: Any, functions: Mapping[str, Any]) -> Any:
        if not isinstance(name, str) or name not in functions:
            raise TemplateError(f"{kind} {str(name)[:64]!r} is not for chat templates")
        return functions[name]

    def map_items(
        value: Any, name: Any = None, *arguments: Any, attribute: Any = None, default: Any = None, **keywords: Any
    ) -> list[Any]:
        items = items_of("map", value)
        if attribute is None:
            function = known("filter", name, filters)
            return [function(item, *arguments, **keywords) for item in items]
        found = [attribute_of(item, attribute) for item in items]
        return [default if default is not None and isinstance(item, Undefined) else item for item in found]

    def chosen(is_kept: bool, by_attribute: bool) -> Function:
        def choose(value: Any, *arguments: Any) -> list[Any]:
            path, rest = (arguments[0], arguments[1:]) if by_attribute else (None, arguments)
            test = known("test", rest[0], tests) if rest else bool
            kept = []
            for item in items_of("select", value):
                compared = attribute_of(item, path) if by_attribute else item
                weighed = [budget.weighed(each) for each in (compared, *rest[1:])]
                if bool(test(*weighed)) == is_kept:
                    kept.append(item)
            return kept

        return choose

    return {
        "map": map_items,
        "select": chosen(is_kept=True, by_attribute=False),
        "reject": chosen(is_kept=False, by_attribute=False),
        "selectattr": chosen(is_kept=True, by_attribute=True),
        "rejectattr": chosen(is_kept=False, by_attribute=True),
    }
