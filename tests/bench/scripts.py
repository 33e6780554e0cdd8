"""Bench scripts, run as people run them."""

import json
from typing import Any

from tests.subprocesses import run_python


def result_of(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script; return the JSON object of its last line, before which a bound and a table must stand."""
    done = run_python("-m", f"bench.{script}", *arguments)
    assert done.returncode == 0, done.stderr
    *shown, last = done.stdout.splitlines()
    assert any("bound" in line for line in shown)
    result: dict[str, Any] = json.loads(last)
    return result
