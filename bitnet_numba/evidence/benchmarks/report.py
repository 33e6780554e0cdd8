"""A comparison of benchmarks as text, Markdown or JUnit XML."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

from bitnet_numba.evidence.benchmarks.compare import Change


def as_markdown(changes: Sequence[Change], remarks: Sequence[str]) -> str:
    """Return a table for a pull request."""
    lines = ["| metric | current | baseline | change | |", "|---|---:|---:|---:|---|"]
    lines += [
        f"| {c.metric} | {_number(c.current)} | {_number(c.baseline)} | {c.change:+.1%} | {_verdict(c)} |"
        for c in changes
    ]
    lines += [f"\n> {remark}" for remark in remarks]
    return "\n".join(lines) + "\n"


def as_text(changes: Sequence[Change], remarks: Sequence[str]) -> str:
    """Return aligned columns, at most 80 wide."""
    lines = [f"{'metric':<23}{'current':>15}{'baseline':>15}{'change':>9}  "]
    lines += [
        f"{c.metric:<23}{_number(c.current):>15}{_number(c.baseline):>15}{c.change:>+9.1%}  {_verdict(c)}"
        for c in changes
    ]
    lines += [f"note: {remark}" for remark in remarks]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def as_junit(changes: Sequence[Change], remarks: Sequence[str]) -> str:
    """Return a JUnit report: a test case a metric, a failure a regression."""
    failures = [change for change in changes if change.status == "regression"]
    suite = ElementTree.Element(
        "testsuite", name="bitnet-numba bench compare", tests=str(len(changes)), failures=str(len(failures))
    )
    for change in changes:
        case = ElementTree.SubElement(suite, "testcase", classname="bench", name=change.metric)
        if change.status == "regression":
            message = f"{change.current:g}, the baseline has {change.baseline:g} ({change.change:+.1%})"
            ElementTree.SubElement(case, "failure", message=message)
    if remarks:
        ElementTree.SubElement(suite, "system-out").text = "\n".join(remarks)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1e6 else f"{value:,.3f}"


def _verdict(change: Change) -> str:
    if change.status == "same":
        return ""
    limit = "" if change.limit is None else f" (limit {change.limit:g})"
    return f"{change.status}{limit if change.status == 'regression' else ''}"
