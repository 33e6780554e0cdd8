"""Text from a stream of tokens, never half a character."""

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Turn token ids into text as they arrive.

    Parameters
    ----------
    bytes_of : callable
        Gives the bytes of a token id.
    drops_space : bool
        Whether a space at the very start is an artefact of encoding, and left out.
    """

    def __init__(self, bytes_of: Callable[[int], bytes], drops_space: bool = False) -> None:
        self._bytes_of = bytes_of
        self._drops_space = drops_space
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Return the characters that this token completes; may be empty."""
        return self._emit(self._bytes_of(token_id), final=False)

    def finish(self) -> str:
        """Return what is left at the end; the bytes of an unfinished character become U+FFFD."""
        return self._emit(b"", final=True)

    def _emit(self, data: bytes, final: bool) -> str:
        if self._drops_space and data:
            self._drops_space = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data, final)
