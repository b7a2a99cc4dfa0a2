"""The head of a response as bytes, and the proof that no header can end it early or add another."""

import re
from collections.abc import Iterable
from http import HTTPStatus

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BODILESS_STATUSES = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_CHECKED_NAMES: set[bytes] = set()
"""Valid names that have been sent, so that each is checked once."""
MAX_CHECKED_NAMES = 1024
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, int | None]:
    """Return headers as the lines that they are sent as, and the `Content-Length` among them.

    Raises:
        ValueError: a name or a value is not valid (RFC 9110 section 5), such as a value with a line break.
    """
    pairs = list(headers)
    by_name = dict(pairs)
    if not by_name.keys() <= _CHECKED_NAMES:
        _check_names(by_name)
    lines = b"".join([b"%b: %b\r\n" % pair for pair in pairs])
    if lines.count(b"\n") != len(pairs) or lines.count(b"\r") != len(pairs) or b"\0" in lines:
        raise ValueError(f"invalid value of a response header: {lines!r}")
    length = by_name.get(b"content-length")
    return lines, None if length is None else int(length)


def status_line(status: int) -> bytes:
    """Return the status line of a response."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def _check_names(names: Iterable[bytes]) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"invalid name of a response header: {name!r}")
        if len(_CHECKED_NAMES) < MAX_CHECKED_NAMES:
            _CHECKED_NAMES.add(name)
