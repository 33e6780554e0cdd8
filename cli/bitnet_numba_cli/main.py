"""The command group: it imports a command only when it is used, and reports each error of a user in one line."""

import errno
import importlib
import io
import os
import signal
import sys
from typing import Any, NoReturn

import click

from bitnet_numba.declare import FOREIGN_NAMES
from bitnet_numba.errors import BitNetError, printable
from bitnet_numba_cli._text import discard_buffer

COMMANDS = (
    "run",
    "chat",
    "receipt",
    "baseline",
    "bench",
    "diff",
    "score",
    "tokenize",
    "info",
    "inspect",
    "validate",
    "policy",
    "pull",
    "export",
    "quantize",
    "smoothness",
    "compile",
)
ALIASES = {"metrics": "smoothness"}

_ERRORS_OF_NAMES = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR)


class CommandLine(click.Group):
    """A group that finds each command in the module of the same name.

    Exit status: that of the :class:`BitNetError`, 2 for wrong usage, 130 after Ctrl-C, 141 if the reader of a pipe has
    closed it. Any other exception is a bug and stays a traceback.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the help text."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is no such command."""
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"bitnet_numba_cli.{cmd_name}").command
        return command

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run the command line given, and exit."""
        try:
            status = super().main(*args, **{**extra, "standalone_mode": False})
        except click.UsageError as error:
            _fail(_usage_message(error), error.exit_code)
        except BitNetError as error:
            _fail(str(error), error.exit_code)
        except MemoryError:
            _fail("no memory is left; close other programs, or use a smaller model or context", 1)
        except OSError as error:
            if error.filename is None or error.errno not in _ERRORS_OF_NAMES:
                raise
            _fail(f"{os.fsdecode(error.filename)}: {error.strerror}; check the path", 1)
        except (click.Abort, KeyboardInterrupt):
            sys.exit(128 + signal.SIGINT)
        sys.exit(status or 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Click itself would exit with status 1 if the reader of a pipe has closed it."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            discard_buffer(sys.stdout)
            discard_buffer(sys.stderr)
            ctx.exit(128 + signal.SIGPIPE)


def _usage_message(error: click.UsageError) -> str:
    message = " ".join(error.format_message().split()).removesuffix(".")
    if isinstance(error, click.NoSuchOption):
        known = FOREIGN_NAMES.get(error.option_name.lstrip("-").replace("-", "_"))
        if known is not None:
            message = f"No such option {error.option_name!r}. Did you mean '--{known.replace('_', '-')}'?"
    if error.ctx is None:
        return message
    return f"{message}; see '{error.ctx.command_path} -h'"


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"error: {printable(message)}", err=True)
    sys.exit(status)


@click.group(
    cls=CommandLine,
    name="bitnet-numba",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(None, "-V", "--version", package_name="bitnet-numba", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run BitNet b1.58 language models: pure Python, native speed, the same bits on every CPU.

    Without -m/--model, commands use the model that BITNET_GGUF names, or the small one that comes with the program.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def main() -> NoReturn:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where the caller closed it
            stream.reconfigure(errors="replace")
    cli.main()
