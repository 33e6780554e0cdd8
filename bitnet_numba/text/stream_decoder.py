"""Decode a stream of tokens to text; an incomplete UTF-8 character waits for its remaining bytes."""

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Turn token ids into text one by one; ``drops_space`` drops a space at the very start, which encoding added."""

    def __init__(self, bytes_of: Callable[[int], bytes], drops_space: bool = False) -> None:
        self._bytes_of = bytes_of
        self._drops_space = drops_space
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Return the characters that this token completes; may be empty."""
        data = self._bytes_of(token_id)
        if self._drops_space and data:
            self._drops_space = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data)

    def finish(self) -> str:
        """Return the rest; the bytes of an incomplete character become U+FFFD."""
        return self._decoder.decode(b"", final=True)
