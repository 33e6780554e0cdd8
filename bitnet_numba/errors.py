"""Errors that users can fix: one base class, and subclasses with the exit code of the command line.

A message is one line that names the place and the remedy. Anything that is not a :class:`BitNetError` is a bug, and
stays a traceback.
"""

from typing import ClassVar, Final

MAX_EXCERPT: Final = 64


class BitNetError(Exception):
    """An error that the user can fix: a wrong file, a wrong setting, a machine that is too small."""

    exit_code: ClassVar[int] = 1


class FormatError(BitNetError):
    """A file's bytes contradict its format, or each other."""


class UnsupportedError(BitNetError):
    """A valid file or request that this program does not support; the message says what to use instead."""


class ResourceError(BitNetError):
    """The machine, or a requested limit, is too small: memory, disk, context, threads."""


class DiskSpaceError(ResourceError):
    """The disk has no room for a file."""

    exit_code = 10


class TemplateError(BitNetError):
    """A chat template is unknown, malformed, or does more than a template may."""


class NonFiniteError(BitNetError):
    """A number became infinite or NaN while a model ran: its weights do not fit the number formats they run in."""


class ParameterError(BitNetError, ValueError):
    """An argument is out of its range."""

    exit_code = 2


class AuthenticationError(BitNetError):
    """A server refuses access: the token is missing, or does not give access to this."""

    exit_code = 11


class RateLimitError(BitNetError):
    """A server received too many requests."""

    exit_code = 12


class IntegrityError(BitNetError):
    """A file is not the expected one: its SHA-256 or its size differs."""

    exit_code = 13


class NetworkError(BitNetError):
    """A server cannot be reached, or does not answer as it should."""

    exit_code = 14


class CorrectionRefusedError(BitNetError):
    """Corrections of a model's weights are requested where they are not allowed: in strict mode, or with CI set."""

    exit_code = 3


class GateError(BitNetError):
    """In strict mode, a norm or projection is outside the ruleset that the model is checked against."""

    exit_code = 8


class EvidenceUnreadableError(BitNetError):
    """A receipt or another document of evidence cannot be read."""

    exit_code = 2


class EvidenceError(BitNetError):
    """A document of evidence contradicts itself, or what it describes."""

    exit_code = 15


def excerpt(value: object) -> str:
    """Return a value from a file as a message may show it: quoted, printable, and cut short."""
    if isinstance(value, str | list):
        value = value[: MAX_EXCERPT + 1]  # an array in a file can have millions of elements
    shown = repr(value)
    return shown if len(shown) <= MAX_EXCERPT else f"{shown[:MAX_EXCERPT]}..."


def printable(text: str) -> str:
    """Return text from a file as one line that steers no terminal: newlines and escapes are spelled out."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
