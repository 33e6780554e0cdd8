"""Syntax trees of chat templates: refuse all but the listed nodes, and insert charges to the budget."""

from collections.abc import Sequence
from typing import Any, Final

import jinja2
from jinja2 import Environment, nodes
from jinja2.visitor import NodeTransformer

from bitnet_numba.text.sandbox.functions import ITEMS_PER_STEP

MAX_TREE_DEPTH: Final = 100
MAX_TREE_SIZE: Final = 100_000  # sum of the depths of all nodes, to which the time of compiling is proportional
_NODES: Final = (
    # statements
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Assign, nodes.AssignBlock, nodes.For, nodes.If),
    *(nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.With, nodes.Scope),
    *(nodes.ExprStmt, nodes.Break, nodes.Continue),
    # values
    *(nodes.Const, nodes.Name, nodes.NSRef, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Call, nodes.Filter, nodes.Test),
    # operators: all but `**`
    *(nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Concat),
)
# Filters of the rewritten tree; no template can spell a name with parentheses.
SPEND, MADE, WEIGHED, CONCATENATE = "(spend)", "(made)", "(weighed)", "(concatenate)"


def check_tree(tree: nodes.Template, environment: Environment) -> None:
    """Refuse nodes, filters and tests that are not listed, and trees too deep or too large to compile."""
    stack: list[tuple[nodes.Node, int]] = [(tree, 0)]
    size = 0
    while stack:
        node, depth = stack.pop()
        size += depth
        if size > MAX_TREE_SIZE:
            raise jinja2.TemplateSyntaxError("takes too long to compile; choose a shorter template", node.lineno or 1)
        if depth > MAX_TREE_DEPTH:
            raise jinja2.TemplateSyntaxError(f"nested more than {MAX_TREE_DEPTH} deep", node.lineno or 1)
        reason = _refusal(node, environment)
        if reason:
            raise jinja2.TemplateSyntaxError(f"{reason} is not for chat templates", node.lineno or 1)
        stack += [(child, depth + 1) for child in node.iter_child_nodes()]


def _refusal(node: nodes.Node, environment: Environment) -> str | None:
    if not isinstance(node, _NODES):
        return "operator '**'" if isinstance(node, nodes.Pow) else f"a statement {type(node).__name__!r}"
    if isinstance(node, nodes.Filter) and node.name not in environment.filters:
        return f"filter {node.name!r}"
    if isinstance(node, nodes.Test) and node.name not in environment.tests:
        return f"test {node.name!r}"
    if isinstance(node, nodes.For) and node.recursive:
        return "a recursive loop"
    if isinstance(node, nodes.Call | nodes.Filter | nodes.Test) and (node.dyn_args or node.dyn_kwargs):
        return "a call with * or **"
    # Hashing a nested key takes unbounded time.
    if isinstance(node, nodes.Pair) and not (isinstance(node.key, nodes.Const) and isinstance(node.key.value, str)):
        return "a mapping whose keys are not plain text"
    return None


class Meter(NodeTransformer):
    """Insert a charge before each run of a loop, macro or call block, and around expressions that can be large."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        """Rewrite a node after its children; a body is charged for what it held before."""
        repeated = node if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock) else None
        body = None if repeated is None else _charge(repeated.body, node.lineno)
        test = _charge([node.test], node.lineno) if isinstance(node, nodes.For) and node.test is not None else None
        super().generic_visit(node)
        if repeated is not None and body is not None:
            repeated.body.insert(0, nodes.ExprStmt(body, lineno=node.lineno))
        if isinstance(node, nodes.For) and node.test is not None and test is not None:
            node.test = nodes.And(test, node.test, lineno=node.lineno)
        elif isinstance(node, nodes.Concat):
            return _wrap(nodes.List(list(node.nodes), lineno=node.lineno), CONCATENATE)
        elif isinstance(node, nodes.Compare):
            node.expr = _wrap(node.expr, WEIGHED)
            for operand in node.ops:
                operand.expr = _wrap(operand.expr, WEIGHED)
        elif isinstance(node, nodes.Test) and node.args:
            node.node = _wrap(node.node, WEIGHED)
            node.args = [_wrap(argument, WEIGHED) for argument in node.args]
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            node.node = _wrap(node.node, MADE)
        return node


def _charge(body: Sequence[nodes.Node], line: int) -> nodes.Filter:
    """Return a node that charges one run of ``body`` by its number of nodes and of literal characters."""
    n_nodes = n_characters = 0
    stack = list(body)
    while stack:
        node = stack.pop()
        n_nodes += 1
        if isinstance(node, nodes.TemplateData):
            n_characters += len(node.data)
        stack += node.iter_child_nodes()
    steps = 1 + n_nodes // ITEMS_PER_STEP + n_characters // 1024
    return _wrap(nodes.Const(steps, lineno=line), SPEND)


def _wrap(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
