"""Bytes to requests: takes the bytes of a connection in any portions, and gives heads and bodies when asked.

It reads no further than it is asked to: what a client has sent beyond the present request stays unread.
"""

import re

from service.transport.chunked import ChunkedDecoder
from service.transport.head import Head, check_beginning, parse_head

_EMPTY_LINES = re.compile(rb"(?:\r\n)+")


class Reader:
    """The requests of one connection, one after the other."""

    __slots__ = ("_buffer", "_checked", "_chunks", "_single_headers", "remaining")

    def __init__(self, single_headers: frozenset[bytes]) -> None:
        """A reader without bytes; `single_headers` are those of `parse_head`."""
        self.remaining: int | None = 0
        """Bytes of the present body that have not been read; None if it comes in chunks and has not ended."""
        self._single_headers = single_headers
        self._buffer = b""
        self._checked = 0
        """Bytes of an incomplete head that have been checked."""
        self._chunks: ChunkedDecoder | None = None

    @property
    def unread(self) -> int:
        """Bytes that have arrived and not been read."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes that have arrived."""
        self._buffer = self._buffer + data if self._buffer else data

    def clear(self) -> None:
        """Drop all unread bytes."""
        self._buffer = b""

    def read_head(self) -> Head | None:
        """Return the head of the next request, or None until it is complete.

        The body of the request before must have been read to its end.

        Raises:
            Refusal: it is not valid; nothing can be read after it.
        """
        data = self._buffer
        if data.startswith(b"\r\n"):  # RFC 9112 section 2.2: empty lines before a request are ignored
            data = _EMPTY_LINES.sub(b"", data, 1)
        end = data.find(b"\r\n\r\n", max(0, self._checked - 3)) + 4
        if end < 4:
            self._buffer = data
            if data not in (b"", b"\r"):
                check_beginning(data, self._checked)
                self._checked = len(data)
            return None
        self._checked = 0
        head = parse_head(data[:end], self._single_headers)
        self._buffer = data[end:]
        self.remaining = head.body_bytes
        self._chunks = ChunkedDecoder() if head.body_bytes is None else None
        return head

    def read_body(self) -> bytes:
        """Return what has arrived of the present body; after its last byte `remaining` is 0.

        Raises:
            Refusal: its chunks are not valid; nothing can be read after it.
        """
        data = self._buffer
        if self._chunks is not None:
            body, self._buffer = self._chunks.decode(data)
            if self._chunks.complete:
                self.remaining, self._chunks = 0, None
            return body
        assert self.remaining is not None
        if self.remaining >= len(data):
            self._buffer = b""
            self.remaining -= len(data)
            return data
        body, self._buffer = data[: self.remaining], data[self.remaining :]
        self.remaining = 0
        return body
