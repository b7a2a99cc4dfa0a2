"""The head of a request: its request line and headers, checked by httptools and against RFC 9110 and 9112.

httptools (llhttp) rejects malformed header lines and ambiguous lengths. This module and `request_line` check the rest:
target, method and version, `Host`, headers that must not repeat, transfer codings and expectations. httptools gets
complete heads only, so that its verdict does not depend on how the bytes were split into packets.
"""

import re
from typing import NamedTuple

import httptools

from service.transport.options import Headers, Refusal
from service.transport.request_line import RequestLine, is_host, not_http, parse_request_line

MAX_REQUEST_LINE_BYTES = 65536
MAX_HEADER_BYTES = 65536
"""Limit for all header lines of a request together, and for all its trailers together."""

_SINGLE_HEADERS = frozenset((b"host", b"authorization", b"content-type", b"content-length", b"origin"))

_CONTROL_HEADERS = frozenset((b"transfer-encoding", b"expect", b"connection"))

_REQUEST_LINE_START = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?: |\Z)")
_STRAY_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")


class Head(NamedTuple):
    """A valid head."""

    line: RequestLine
    headers: Headers
    """Names in lower case, in the order sent."""
    body_bytes: int | None
    """Length of the body; None if it comes in chunks."""
    keep_alive: bool
    """Whether the client may send another request on the connection."""
    expects_continue: bool
    """Whether the client waits for `100 Continue` before it sends the body."""


def parse_head(raw: bytes, single_headers: frozenset[bytes]) -> Head:
    """Parse a complete head, from its request line to the empty line.

    Args:
        raw: the bytes.
        single_headers: lower-case names of headers that must not repeat, in addition to those of HTTP itself.

    Raises:
        Refusal: with status 400, 414, 417, 431, 501 or 505.
    """
    if len(raw) > MAX_REQUEST_LINE_BYTES:
        check_size(raw)
    line_end = raw.find(b"\r\n")
    line = parse_request_line(raw[:line_end])
    try:
        _check_syntax(raw, line, line_end)
        fields = [field.partition(b":") for field in raw.split(b"\r\n")[1:-2]]
        headers = [(name.lower(), value.strip(b" \t")) for name, _, value in fields]
        return _interpret(line, headers, single_headers)
    except Refusal as refusal:
        refusal.method, refusal.path = line.method, line.path.decode("ascii", "replace")
        raise


def _check_syntax(raw: bytes, line: RequestLine, line_end: int) -> None:
    """Check the whole head with llhttp. If it accepts the head, each line is a header and can be split."""
    if line.minor > 1:  # RFC 9110 section 2.5: process it as the highest known minor version
        raw = raw[: line_end - 1] + b"1" + raw[line_end:]
    try:
        httptools.HttpRequestParser(None).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # an upgrade offer is ignored: RFC 9110 section 7.8
    except httptools.HttpParserError as error:
        raise not_http() from error


def _interpret(line: RequestLine, headers: Headers, single_headers: frozenset[bytes]) -> Head:
    by_name = dict(headers)
    if len(by_name) != len(headers):
        _check_not_repeated(headers, _SINGLE_HEADERS | single_headers)
    host = by_name.get(b"host")
    if host is None:
        if line.minor:
            raise Refusal(400, "The Host header is missing.")
    elif not is_host(host):
        raise Refusal(400, "The Host header is not a host with or without a port.")
    if line.authority is not None:
        headers = [(name, line.authority if name == b"host" else value) for name, value in headers]
    body_bytes: int | None = int(by_name.get(b"content-length", 0))
    keep_alive, expects_continue = line.minor > 0, False
    if not _CONTROL_HEADERS.isdisjoint(by_name):
        if b"transfer-encoding" in by_name:
            _check_transfer_coding(by_name[b"transfer-encoding"], line.minor)
            body_bytes = None
        expects_continue = line.minor > 0 and _expects_continue(by_name.get(b"expect"))
        keep_alive = keep_alive and not _ends_connection(headers)
    return Head(line, headers, body_bytes, keep_alive, expects_continue)


def check_beginning(raw: bytes, fresh: int) -> None:
    """Check the beginning of an incomplete head, so that invalid bytes are rejected without waiting for the end.

    Args:
        raw: the beginning of the head.
        fresh: the index of the first byte that has not been checked.

    Raises:
        Refusal: as `parse_head` would.
    """
    check_size(raw)
    line_end = raw.find(b"\r\n")
    if not _REQUEST_LINE_START.match(raw[:64]) or _STRAY_LINE_END.search(raw, fresh):
        raise not_http()
    if line_end >= fresh:
        parse_request_line(raw[:line_end])


def check_size(raw: bytes) -> None:
    """Check the lengths of the request line and of the header lines, complete or not.

    Raises:
        Refusal: 414 or 431.
    """
    line_end = raw.find(b"\r\n")
    line_bytes = len(raw) if line_end < 0 else line_end
    if line_bytes > MAX_REQUEST_LINE_BYTES:
        raise Refusal(414, f"The request line may have at most {MAX_REQUEST_LINE_BYTES:,} bytes.")
    if len(raw) - line_bytes > MAX_HEADER_BYTES:
        raise Refusal(431, f"The headers may have at most {MAX_HEADER_BYTES:,} bytes together.")


def _ends_connection(headers: Headers) -> bool:
    """Return whether a `Connection` header has the option `close` (RFC 9112 section 9.6)."""
    values = b",".join(value for name, value in headers if name == b"connection")
    return b"close" in (option.strip().lower() for option in values.split(b","))


def _check_not_repeated(headers: Headers, single_headers: frozenset[bytes]) -> None:
    names = [name for name, _ in headers if name in single_headers]
    for name in names:
        if names.count(name) > 1:
            raise Refusal(400, f"The header {name.decode().title()} may be sent once only.")


def _expects_continue(value: bytes | None) -> bool:
    if value is not None and value.lower() != b"100-continue":
        raise Refusal(417, "The only supported expectation is 100-continue.")
    return value is not None


def _check_transfer_coding(value: bytes, minor: int) -> None:
    """Check that a body comes in chunks and in nothing else (RFC 9112 section 6.1)."""
    if minor == 0:
        raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding.")
    if value.lower() != b"chunked":
        raise Refusal(501, "The only supported transfer coding is chunked.")
