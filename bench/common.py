"""What the scripts share: options, medians of interleaved measurements, tables, and the JSON object at the end."""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows a script's docstring as it is written."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def interleaved(rounds: int, *measures: Callable[[], float]) -> list[float]:
    """Take measures in turn, so that a machine whose speed drifts is fair to all; return their medians."""
    taken = [[measure() for measure in measures] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*taken, strict=True)]


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells under their headings: the first column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        numbers = "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        print(f"{row[0]:{widths[0]}}{numbers}".rstrip())


def print_result(result: Mapping[str, object]) -> None:
    """Print the last line: what a program reads."""
    print(json.dumps(result), flush=True)
