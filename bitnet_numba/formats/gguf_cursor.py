"""A bounded reader of little-endian values: every read of a GGUF header is checked against the end first."""

import struct
from pathlib import Path

from bitnet_numba.errors import FormatError
from bitnet_numba.formats.gguf_types import MAX_HEADER_BYTES

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Cursor:
    """Reads one value after the other from the bytes of a file, or of its header alone; ``path`` is for errors."""

    __slots__ = ("data", "limit", "path", "position")

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path = path
        self.data = data
        self.limit = min(len(data), MAX_HEADER_BYTES)  # the first byte that must not be read
        self.position = 0  # the next byte to read

    def error(self, at: int, problem: str) -> FormatError:
        """Return an error that names the file, the byte and the problem."""
        return FormatError(f"{self.path}: byte {at:,}: {problem}")

    def take(self, n_bytes: int, what: str) -> int:
        """Skip ``n_bytes`` and return their start; FormatError if they reach past the end of file or header."""
        start = self.position
        if n_bytes > self.limit - start:
            raise self.overrun(start, n_bytes, what)
        self.position = start + n_bytes
        return start

    def overrun(self, at: int, n_bytes: int, what: str) -> FormatError:
        """Return the error for bytes that are not there."""
        holder = "the file" if self.limit == len(self.data) else f"a header of at most {MAX_HEADER_BYTES:,} bytes"
        return self.error(at, f"{what} needs {n_bytes:,} bytes, {holder} has {self.limit - at:,} left")

    def u32(self, what: str) -> int:
        """Read a 32-bit unsigned integer."""
        value: int = _U32.unpack_from(self.data, self.take(4, what))[0]
        return value

    def u64(self, what: str) -> int:
        """Read a 64-bit unsigned integer."""
        value: int = _U64.unpack_from(self.data, self.take(8, what))[0]
        return value

    def text(self, what: str, min_bytes: int, max_bytes: int) -> str:
        """Read a string: a 64-bit length, checked against the two bounds, then UTF-8."""
        at = self.position
        n_bytes = self.u64(f"the length of {what}")
        if not min_bytes <= n_bytes <= max_bytes:
            raise self.error(at, f"{what} has {n_bytes:,} bytes, expected {min_bytes} to {max_bytes:,}")
        start = self.take(n_bytes, what)
        try:
            return str(self.data[start : self.position], "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(start + error.start, f"{what} is not UTF-8") from None
