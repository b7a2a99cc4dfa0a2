"""Parse the bytes of a connection, which arrive in any portions, to heads and bodies.

Bytes after the present request stay unread until the connection asks for the next head.
"""

import re

from service.transport.chunked import ChunkedDecoder
from service.transport.head import Head, check_beginning, parse_head

_CR = ord("\r")
_EMPTY_LINES = re.compile(rb"(?:\r\n)+")


class Reader:
    """Reads the requests of one connection in order."""

    __slots__ = ("_chunks", "_searched", "_single_headers", "buffer", "remaining")

    def __init__(self, single_headers: frozenset[bytes]) -> None:
        """Create a reader; `single_headers` are those of `parse_head`."""
        self.remaining: int | None = 0
        """Bytes of the present body that have not been read; None for a chunked body that has not ended."""
        self._single_headers = single_headers
        self.buffer = b""
        """Bytes that have arrived and have not been read. The connection appends to it."""
        self._searched = 0
        """Index from which the search for the end of an incomplete head continues."""
        self._chunks: ChunkedDecoder | None = None

    def read_head(self) -> Head | None:
        """Return the head of the next request, or None until it is complete.

        The body of the request before must have been read to its end.

        Raises:
            Refusal: the head is not valid; nothing can be read after it.
        """
        data = self.buffer
        end = data.find(b"\r\n\r\n", self._searched) + 4
        if end < 4 or data[0] == _CR:
            return self._await_head(data)
        self._searched = 0
        head = parse_head(data[:end], self._single_headers)
        self.buffer = data[end:]
        self.remaining = head.body_bytes
        if head.body_bytes is None:
            self._chunks = ChunkedDecoder()
        return head

    def _await_head(self, data: bytes) -> Head | None:
        """Drop empty lines before the head (RFC 9112 section 2.2), and check the bytes that have arrived."""
        if data.startswith(b"\r\n"):
            self.buffer = _EMPTY_LINES.sub(b"", data, 1)
            self._searched = 0
            return self.read_head() if self.buffer else None
        if data not in (b"", b"\r"):
            check_beginning(data, self._searched)
            self._searched = max(0, len(data) - 3)
        return None

    def read_body(self) -> bytes:
        """Return the bytes of the present body that have arrived; after its last byte `remaining` is 0.

        Raises:
            Refusal: its chunks are not valid; nothing can be read after it.
        """
        data = self.buffer
        if self.remaining is None:
            return self._read_chunks(data)
        if self.remaining >= len(data):
            self.buffer = b""
            self.remaining -= len(data)
            return data
        body, self.buffer = data[: self.remaining], data[self.remaining :]
        self.remaining = 0
        return body

    def _read_chunks(self, data: bytes) -> bytes:
        assert self._chunks is not None
        body, self.buffer = self._chunks.decode(data)
        if self._chunks.complete:
            self.remaining, self._chunks = 0, None
        return body
