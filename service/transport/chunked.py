"""Bodies in chunks (RFC 9112 section 7.1): extensions are ignored and trailers dropped, both within a limit."""

import re
from enum import Enum, auto

from service.transport.head import MAX_HEADER_BYTES
from service.transport.options import Refusal

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;%b(?:=(?:%b|%b))?)*" % (_TOKEN, _TOKEN, _QUOTED))
_SIZE_LINE_START = re.compile(rb"(?:[0-9A-Fa-f]{1,15}(?:;[\t -~\x80-\xff]*)?\r?)?")
_TRAILER = re.compile(rb"%b:[\t -~\x80-\xff]*" % _TOKEN)
_TRAILER_START = re.compile(rb"(?:%b(?::[\t -~\x80-\xff]*\r?)?|\r)?" % _TOKEN)


class _Part(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILERS = auto()


class ChunkedDecoder:
    """Decodes one chunked body."""

    __slots__ = ("_left", "_overhead", "_part", "complete")

    def __init__(self) -> None:
        self.complete = False
        """Whether the end of the body has been read."""
        self._part = _Part.SIZE
        self._left = 0
        """Bytes of the present chunk that have not arrived."""
        self._overhead = 0
        """Bytes of extensions and trailers so far."""

    def decode(self, coded: bytes) -> tuple[bytes, bytes]:
        """Return the part of the body in `coded`, and the bytes that could not be decoded yet.

        Prepend the latter to the bytes that arrive next. If the body is `complete`, they belong to the next request.

        Raises:
            Refusal: 400 if the chunks are malformed, 431 if extensions and trailers are too long.
        """
        data: list[bytes] = []
        at = 0
        while at < len(coded) and not self.complete:
            if self._part is _Part.DATA:
                piece = coded[at : at + self._left]
                data.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._part = _Part.DATA_END
            elif self._part is _Part.DATA_END:
                line_end = coded[at : at + 2]
                if line_end == b"\r":
                    break
                if line_end != b"\r\n":
                    raise _malformed()
                at += 2
                self._part = _Part.SIZE
            else:
                end = coded.find(b"\r\n", at)
                if end < 0:
                    self._check_start_of_line(coded[at:])
                    break
                self._read_line(coded[at:end])
                at = end + 2
        return b"".join(data), coded[at:]

    def _read_line(self, line: bytes) -> None:
        if self._part is _Part.SIZE:
            found = _SIZE_LINE.fullmatch(line)
            if found is None:
                raise _malformed()
            self._add_overhead(len(line) - len(found[1]))
            self._left = int(found[1], 16)
            self._part = _Part.DATA if self._left else _Part.TRAILERS
        elif not line:
            self.complete = True
        elif _TRAILER.fullmatch(line):
            self._add_overhead(len(line) + 2)
        else:
            raise _malformed()

    def _check_start_of_line(self, start: bytes) -> None:
        pattern = _SIZE_LINE_START if self._part is _Part.SIZE else _TRAILER_START
        if not pattern.fullmatch(start):
            raise _malformed()
        if self._overhead + len(start) > MAX_HEADER_BYTES:
            raise _too_long()

    def _add_overhead(self, size: int) -> None:
        self._overhead += size
        if self._overhead > MAX_HEADER_BYTES:
            raise _too_long()


def _malformed() -> Refusal:
    return Refusal(400, "The body does not have valid chunks.")


def _too_long() -> Refusal:
    return Refusal(431, f"Chunk extensions and trailers may have at most {MAX_HEADER_BYTES:,} bytes together.")
