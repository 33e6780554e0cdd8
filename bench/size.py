"""How large are the rooms? Prints lines by folder, and fails where a file or a function outgrows its budget."""

import ast
import json
import sys
from pathlib import Path

FILE_LINES = 320
FUNCTION_LINES = 55
KERNEL_LINES = 44
ROOTS = ("bitnet_numba", "cli", "bench", "docs")


def functions(tree: ast.Module) -> list[tuple[str, int, bool]]:
    """Return each function's name, its lines without the docstring, and whether it is a kernel."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        kernel = any(isinstance(mark, ast.Name) and mark.id in ("jit", "jit_inline") for mark in node.decorator_list)
        body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
        signature = node.body[0].lineno - node.lineno
        found.append((node.name, signature + (node.end_lineno or 0) - body[0].lineno + 1, kernel))
    return found


def main() -> int:
    """Print the table; return 1 if anything is too large."""
    top = Path(__file__).parent.parent
    folders: dict[str, list[int]] = {}
    largest = {"file": 0, "function": 0, "kernel": 0}
    too_large = []
    for path in sorted(path for root in ROOTS for path in (top / root).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        place, lines = path.relative_to(top), len(text.splitlines())
        folders.setdefault(str(place.parent), []).append(lines)
        largest["file"] = max(largest["file"], lines)
        if lines > FILE_LINES:
            too_large.append(f"{place}: {lines} lines, a file has at most {FILE_LINES}")
        for name, length, kernel in functions(ast.parse(text)):
            kind, limit = ("kernel", KERNEL_LINES) if kernel else ("function", FUNCTION_LINES)
            largest[kind] = max(largest[kind], length)
            if length > limit:
                too_large.append(f"{place}: {name}: {length} lines, a {kind} has at most {limit}")
    print(f"{'folder':44}{'files':>6}{'lines':>8}{'largest':>9}")
    for folder, sizes in folders.items():
        print(f"{folder:44}{len(sizes):>6}{sum(sizes):>8}{max(sizes):>9}")
    for line in too_large:
        print(f"too large: {line}", file=sys.stderr)
    print(json.dumps({"lines": sum(map(sum, folders.values())), "largest": largest, "too_large": len(too_large)}))
    return 1 if too_large else 0


if __name__ == "__main__":
    sys.exit(main())
