"""Write docs/reference/cli.md from the commands' own help texts: ``python docs/generate_cli_reference.py``."""

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from bitnet_numba_cli.main import cli

TARGET = Path(__file__).parent / "reference" / "cli.md"
HEADER = """\
# Command line

<!-- Made by docs/generate_cli_reference.py from the help texts; change those, and run it again. -->

"""
EXIT_STATUS = """\
## Exit status

| status | meaning |
|---|---|
| 0 | done |
| 1 | bad input, or a machine too small: one line on stderr names the place and the remedy |
| 2 | wrong usage, or an argument out of its range |
| 3 | corrections of a model are requested where they are not allowed |
| 8 | strict mode, and a norm or projection is outside the ruleset (`inspect`) |
| 10 to 15 | the stage of `validate` that failed first |
| 130 | stopped by Ctrl-C |
| 141 | the reader of the output closed the pipe, as `head` does |
| 143 | stopped by SIGTERM |
"""


def reference() -> str:
    """Return the reference page as Markdown."""
    context = click.Context(cli, info_name="bitnet-numba")
    sections = [_section(cli, "bitnet-numba COMMAND", "")]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        if command is not None:
            sections.append(_section(command, f"bitnet-numba {name}", f"## {name}\n\n"))
        if isinstance(command, click.Group):
            sections += [
                _section(each, f"bitnet-numba {name} {each.name}", f"### {name} {each.name}\n\n")
                for each in command.commands.values()
            ]
    return HEADER + "\n".join([*sections, EXIT_STATUS])


def _section(command: click.Command, usage: str, title: str) -> str:
    """Describe one command; from its texts, not from Click's layout, which changes between versions."""
    arguments = " ".join(_argument(each) for each in command.params if isinstance(each, click.Argument))
    parts = [f"{title}`{usage} [OPTIONS]{' ' if arguments else ''}{arguments}`", inspect.cleandoc(command.help or "")]
    options = [each for each in command.params if isinstance(each, click.Option)]
    if options:
        parts.append("\n".join(_option_rows(options)))
    if command.epilog:
        heading, _, lines = command.epilog.removeprefix("\b\n").partition("\n")
        parts.append(f"{heading}\n\n```sh\n{inspect.cleandoc(lines)}\n```")
    return "\n\n".join(parts) + "\n"


def _argument(argument: click.Argument) -> str:
    name = (argument.name or "").upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _option_rows(options: list[click.Option]) -> Iterator[str]:
    yield "| option | meaning |"
    yield "|---|---|"
    for option in options:
        names = ", ".join(option.opts) + (f" {option.metavar}" if option.metavar else "")
        default = f" Default: {option.default}." if option.show_default else ""
        yield f"| `{_cell(names)}` | {_cell(option.help or '')}{default} |"
    yield "| `-h, --help` | Show the help text and exit. |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(reference(), encoding="utf-8")
