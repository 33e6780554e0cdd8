"""What a fuzz target is: seeds, one input's way through the code, and a change that keeps an input's form."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from bitnet_numba.errors import BitNetError

MAX_MESSAGE = 2000


@dataclass(frozen=True)
class Target:
    """A part of the program that reads what strangers send.

    Attributes
    ----------
    name : str
    seeds : function of nothing to dict of str to bytes
        Inputs that are accepted in full, by name, so that fuzzing begins deep inside.
    read : function of bytes
        Read one input to the end; whatever it raises but a BitNetError is a finding.
    mutate : function of (bytes, Random) to bytes
        Change an input's meaning and keep its form, which changed bytes alone seldom do.
    max_bytes : int
        The longest input that is tried.
    timeout_s : int
        One input that takes longer is a finding.
    memory_mb : int
        So is memory of the process beyond this.
    """

    name: str
    seeds: Callable[[], dict[str, bytes]]
    read: Callable[[bytes], None]
    mutate: Callable[[bytes, random.Random], bytes]
    max_bytes: int
    timeout_s: int
    memory_mb: int

    def refusal(self, data: bytes) -> str | None:
        """Read one input and return the message that refuses it, or None if it is accepted.

        Raises
        ------
        AssertionError
            If the message is not one short line of printable characters.
        Exception
            Any other that reading raises: a finding too.
        """
        try:
            self.read(data)
        except BitNetError as error:
            message = str(error)
            if not message or len(message) > MAX_MESSAGE or not message.isprintable():
                raise AssertionError(f"not one short, printable line: {message[:MAX_MESSAGE]!r}") from error
            return message
        return None
