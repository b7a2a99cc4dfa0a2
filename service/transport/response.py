"""The head of a response as bytes, and the proof that no header can end it early or add another."""

import re
from functools import lru_cache
from http import HTTPStatus

from service.transport.options import Headers

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BODILESS_STATUSES = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def response_head(status: int, headers: Headers, common: bytes) -> bytes:
    """Return the status line and the header lines, the empty line at their end included.

    Args:
        status: 200 to 599.
        headers: names and values.
        common: whole lines that each response has.

    Raises:
        ValueError: a name or a value is not valid (RFC 9110 section 5), such as a value with a line break.
    """
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, common]
    for name, value in headers:
        if not _is_name(name):
            raise ValueError(f"invalid name of a response header: {name!r}")
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    head = b"".join(parts)
    lines = len(headers) + common.count(b"\n") + 2
    if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
        raise ValueError(f"invalid value of a response header among {headers!r}")
    return head


@lru_cache(1024)
def _is_name(name: bytes) -> bool:
    return _NAME.fullmatch(name) is not None
