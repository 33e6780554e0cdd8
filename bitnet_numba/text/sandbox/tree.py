"""What a chat template may consist of, and where its tree is made to charge for what it does."""

from collections.abc import Sequence
from typing import Final

import jinja2
from jinja2 import Environment, nodes
from jinja2.visitor import NodeTransformer

from bitnet_numba.text.sandbox.library import ITEMS_PER_STEP

MAX_TREE_DEPTH: Final = 100
_NODES: Final = (
    # statements
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Assign, nodes.AssignBlock, nodes.For, nodes.If),
    *(nodes.Macro, nodes.ExprStmt, nodes.Break, nodes.Continue),
    # values
    *(nodes.Const, nodes.Name, nodes.NSRef, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Call, nodes.Filter, nodes.Test),
    # operators: all but `**`
    *(nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos),
    *(nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Concat),
)
# Names that the rewritten tree uses; the parentheses keep a template from spelling them.
SPEND, MADE, WEIGHED, CONCATENATE = "(spend)", "(made)", "(weighed)", "(concatenate)"


def check_tree(tree: nodes.Template, environment: Environment) -> None:
    """Refuse every kind of node, filter and test that is not on the lists, and trees too deep to compile."""
    waiting: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_TREE_DEPTH:
            raise jinja2.TemplateSyntaxError(f"nested more than {MAX_TREE_DEPTH} deep", node.lineno)
        reason = _refusal(node, environment)
        if reason:
            raise jinja2.TemplateSyntaxError(f"{reason} is not for chat templates", node.lineno)
        waiting += [(child, depth + 1) for child in node.iter_child_nodes()]


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
    # The hash of a nested key could take for ever.
    if isinstance(node, nodes.Pair) and not (isinstance(node.key, nodes.Const) and isinstance(node.key.value, str)):
        return "a mapping whose keys are not plain text"
    return None


class Meter(NodeTransformer):
    """Put a charge before each loop turn and macro body, and around whatever can be large."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 (jinja2's visitor names)
        charge_test = _charge([node.test], node.lineno) if node.test is not None else None
        self.visit_Macro(node)
        if node.test is not None and charge_test is not None:
            node.test = nodes.And(charge_test, node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro | nodes.For) -> nodes.Node:  # noqa: N802
        charge = _charge(node.body, node.lineno)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(charge, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _wrap(nodes.List(list(node.nodes), lineno=node.lineno), CONCATENATE)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.expr = _wrap(node.expr, WEIGHED)
        for operand in node.ops:
            operand.expr = _wrap(operand.expr, WEIGHED)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if node.args:
            node.node = _wrap(node.node, WEIGHED)
            node.args = [_wrap(argument, WEIGHED) for argument in node.args]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _wrap(node.node, MADE)
        return node


def _charge(body: Sequence[nodes.Node], line: int) -> nodes.Filter:
    """Return a node that charges one run of ``body``: by the number of its nodes, and by the plain text among them."""
    n_nodes = n_characters = 0
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        n_nodes += 1
        if isinstance(node, nodes.TemplateData):
            n_characters += len(node.data)
        waiting += node.iter_child_nodes()
    steps = 1 + n_nodes // ITEMS_PER_STEP + n_characters // 1024
    return _wrap(nodes.Const(steps, lineno=line), SPEND)


def _wrap(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
