"""Serialise the head of a response. Invalid headers are rejected, so that none can inject another one."""

import re
from collections.abc import Iterable
from http import HTTPStatus

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BODILESS_STATUSES = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_CHECKED_NAMES: set[bytes] = set()
"""Valid names, so that each is checked once."""
MAX_CHECKED_NAMES = 1024
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, int | None]:
    """Return headers as header lines, and the value of `Content-Length` if it is one of them.

    Raises:
        ValueError: a name or a value is not valid (RFC 9110 section 5), such as a value with a line break.
    """
    parts: list[bytes] = []
    length = None
    for name, value in headers:
        if name not in _CHECKED_NAMES:
            _check_name(name)
        if name == b"content-length":
            length = int(value)
        parts += (name, b": ", value, b"\r\n")
    lines = b"".join(parts)
    count = len(parts) // 4
    if lines.count(b"\n") != count or lines.count(b"\r") != count or b"\0" in lines:
        raise ValueError(f"invalid value of a response header: {lines!r}")
    return lines, length


def status_line(status: int) -> bytes:
    """Return the status line of a response."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def _check_name(name: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"invalid name of a response header: {name!r}")
    if len(_CHECKED_NAMES) < MAX_CHECKED_NAMES:
        _CHECKED_NAMES.add(name)
