"""Print lines by folder, and fail where a file, function, kernel or wing outgrows its budget.

Budgets count lines of code: docstrings, comments and blank lines are free, so that no file is split for its docs.
"""

import ast
import json
import sys
from collections import Counter
from pathlib import Path

FILE_LINES = 300
FUNCTION_LINES = 55
KERNEL_LINES = 44
WING_FILES = 13  # __init__.py included
ROOTS = ("bitnet_numba", "cli", "bench", "docs")
PRODUCT = ("bitnet_numba", "cli")
DECORATORS = {"jit", "jit_inline", "jit_rows", "register_jitable"}


def code_lines(text: str, tree: ast.Module) -> set[int]:
    """Return the numbers of the lines that hold code."""
    lines = {n for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.lstrip().startswith("#")}
    for node in ast.walk(tree):
        is_text = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if is_text:
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def functions(tree: ast.Module, code: set[int]) -> list[tuple[str, int, bool]]:
    """Return each function's name, its lines of code, and whether it is a kernel."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            is_kernel = any(isinstance(mark, ast.Name) and mark.id in DECORATORS for mark in node.decorator_list)
            n_lines = len(code & set(range(node.lineno, (node.end_lineno or node.lineno) + 1)))
            found.append((node.name, n_lines, is_kernel))
    return found


def main() -> int:
    """Print the table; return 1 if anything is too large."""
    top = Path(__file__).parent.parent
    files, all_lines, all_code = Counter[str](), Counter[str](), Counter[str]()
    largest = {"file": 0, "function": 0, "kernel": 0}
    too_large = []
    for path in sorted(path for root in ROOTS for path in (top / root).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        code, place = code_lines(text, tree), path.relative_to(top)
        files[str(place.parent)] += 1
        all_lines[str(place.parent)] += len(text.splitlines())
        all_code[str(place.parent)] += len(code)
        sizes = [("file", str(place), len(code), FILE_LINES)]
        for name, length, is_kernel in functions(tree, code):
            kind, limit = ("kernel", KERNEL_LINES) if is_kernel else ("function", FUNCTION_LINES)
            sizes.append((kind, f"{place}: {name}", length, limit))
        for kind, what, length, limit in sizes:
            largest[kind] = max(largest[kind], length)
            if length > limit:
                too_large.append(f"{what}: {length} lines of code, a {kind} has at most {limit}")
    for folder, n in files.items():
        if folder.startswith(PRODUCT[0]) and n > WING_FILES:
            too_large.append(f"{folder}: {n} files, a wing has at most {WING_FILES}")
    print(f"{'folder':44}{'files':>6}{'lines':>8}{'code':>8}")
    for folder, n in files.items():
        print(f"{folder:44}{n:>6}{all_lines[folder]:>8}{all_code[folder]:>8}")
    for line in too_large:
        print(f"too large: {line}", file=sys.stderr)
    product = sum(n for folder, n in all_lines.items() if folder.startswith(PRODUCT))
    print(json.dumps({"product_lines": product, "largest": largest, "too_large": len(too_large)}))
    return 1 if too_large else 0


if __name__ == "__main__":
    sys.exit(main())
