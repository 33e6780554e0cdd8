"""What users see besides the answer: notes and timings on stderr, and tables."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bitnet_numba import GenerationResult

Facts = Mapping[str, object]


def say(text: str) -> None:
    """Write one line to stderr."""
    click.echo(text, err=True)


def say_notes(notes: Iterable[str]) -> None:
    """Write the notes of the loader to stderr."""
    for note in notes:
        say(f"note: {note}")


def stderr_is_terminal() -> bool:
    """Return whether stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def timings(result: "GenerationResult") -> str:
    """Return one line on the speed of a generation."""
    cached = f" ({result.cached_tokens} cached)" if result.cached_tokens else ""
    drafts = f" ({result.accepted_tokens} of {result.draft_tokens} drafts accepted)" if result.draft_tokens else ""
    return (
        f"prompt {result.prompt_tokens} tokens{cached}, {result.prompt_tps:.1f} tokens/s"
        f" | answer {result.generation_tokens} tokens{drafts}, {result.generation_tps:.1f} tokens/s"
        f" | first token after {result.first_token_ms:.0f} ms"
        f" | ended by {result.finish_reason}"
    )


def tables(sections: Mapping[str, Facts]) -> str:
    """Lay out facts by section, in colour if stdout is a terminal and ``NO_COLOR`` is not set."""
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = []
    for title, facts in sections.items():
        facts_table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
        facts_table.add_column(style="cyan", no_wrap=True)
        facts_table.add_column(overflow="fold")
        for name, value in facts.items():
            facts_table.add_row(name, str(value))
        parts += [facts_table, Text()]
    return _rendered(parts)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows under a header, the first column aligned left, the others right."""
    from rich.table import Table

    grid = Table(box=None, header_style="bold")
    for number, heading in enumerate(header):
        grid.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    return _rendered([grid])


def _rendered(parts: Iterable["RenderableType"]) -> str:
    from rich.console import Console

    # a pipe has no width, and its reader wants one fact a line
    width = None if sys.stdout.isatty() else 10_000
    console = Console(highlight=False, markup=False, emoji=False, width=width)  # "[/INST]" stands in chat templates
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
