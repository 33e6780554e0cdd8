"""What can go wrong for a user: one error with a few children, each with the exit code that the command line gives it.

A message is one line that names the place and the remedy. Anything that is not a :class:`BitNetError` is a bug, and
stays a traceback.
"""

from typing import ClassVar, Final

MAX_EXCERPT: Final = 64


class BitNetError(Exception):
    """Something that the user can mend: a wrong file, a wrong setting, a machine that is too small."""

    exit_code: ClassVar[int] = 1


class FormatError(BitNetError):
    """A file's bytes contradict its format, or themselves."""


class UnsupportedError(BitNetError):
    """A valid file or request that this program does not serve; the message says what to use instead."""


class ResourceError(BitNetError):
    """The machine, or a limit asked for, is too small: memory, disk, context, threads."""


class DiskSpaceError(ResourceError):
    """The disk has no room for what is to be written."""

    exit_code = 10


class TemplateError(BitNetError):
    """A chat template that is unknown, malformed, or does more than a template may."""


class ParameterError(BitNetError, ValueError):
    """An argument outside its range."""

    exit_code = 2


class AuthenticationError(BitNetError):
    """A server wants to know who asks, or does not give this to whom it is."""

    exit_code = 11


class RateLimitError(BitNetError):
    """A server was asked too often, and wants to be asked later."""

    exit_code = 12


class IntegrityError(BitNetError):
    """A file is not the one that was asked for: its SHA-256 or its size differ."""

    exit_code = 13


class NetworkError(BitNetError):
    """A server cannot be reached, or does not do what it should."""

    exit_code = 14


class CorrectionRefusedError(BitNetError):
    """Corrections of a model's weights are asked for where they are not allowed: in strict mode, or with CI set."""

    exit_code = 3


class GateError(BitNetError):
    """In strict mode, a norm or projection lies outside the ruleset that a model was held against."""

    exit_code = 8


def excerpt(value: object) -> str:
    """Return what a file holds as a message may show it: quoted, printable, and cut short."""
    if isinstance(value, str | list):
        value = value[: MAX_EXCERPT + 1]  # an array of a file can hold millions
    shown = repr(value)
    return shown if len(shown) <= MAX_EXCERPT else f"{shown[:MAX_EXCERPT]}..."
