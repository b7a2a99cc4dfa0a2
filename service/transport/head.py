"""The head of a request: its request line and headers, parsed by httptools and checked against RFC 9110 and 9112.

httptools (llhttp) rejects malformed header lines and ambiguous lengths. This module checks what llhttp leaves open: the
request line, `Host`, headers that must not repeat, transfer codings, expectations. It is given complete heads only, so
that no verdict depends on how the bytes were split into packets.
"""

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any, NamedTuple

import httptools

from service.transport.options import Headers, Refusal

MAX_REQUEST_LINE_BYTES = 65536
MAX_HEADER_BYTES = 65536
"""Of all header lines of a request together, and of all its trailers."""

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"))
"""RFC 9110 and 5789. CONNECT is missing: an origin server need not implement it."""

_SINGLE_HEADERS = frozenset((b"host", b"authorization", b"content-type", b"content-length", b"origin"))

_SLASH = ord("/")
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE = re.compile(rb"(%b+) ([!-~]+) HTTP/([0-9])(?:\.([0-9]))?\r\n" % _TOKEN)
_REQUEST_LINE_START = re.compile(rb"%b{1,32}(?: |\Z)|%b{33}" % (_TOKEN, _TOKEN))
_STRAY_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]+)(/[^?]*)?(?:\?(.*))?", re.IGNORECASE)
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")


class Head(NamedTuple):
    """A valid head."""

    method: str
    path: bytes
    """Of the target, still percent-encoded; `*` for `OPTIONS *`."""
    query: bytes
    version: str
    """`1.0` or `1.1`."""
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
        single_headers: lower-case names of headers that must not repeat, beside those of HTTP itself.

    Raises:
        Refusal: with status 400, 414, 417, 431, 501 or 505.
    """
    check_size(raw)
    method, target, minor = parse_request_line(raw)
    try:
        return _parse_fields(raw, method, target, minor, single_headers)
    except Refusal as refusal:
        refusal.method, refusal.path = method, target.partition(b"?")[0].decode()
        raise


def _parse_fields(raw: bytes, method: str, target: bytes, minor: int, single_headers: frozenset[bytes]) -> Head:
    if minor > 1:  # RFC 9110 section 2.5: served as the highest minor version that is known here
        raw = raw.replace(b" HTTP/1.%d\r\n" % minor, b" HTTP/1.1\r\n", 1)
    fields = _Fields(raw)
    headers, by_name = fields.headers, dict(fields.headers)
    if len(by_name) != len(headers):
        _check_not_repeated(headers, _SINGLE_HEADERS | single_headers)
    host = by_name.get(b"host")
    if host is None:
        if minor:
            raise Refusal(400, "The Host header is missing.")
    elif not is_host(host):
        raise Refusal(400, "The Host header is not a host with or without a port.")
    if target[0] == _SLASH and b"#" not in target:
        path, _, query = target.partition(b"?")
    else:
        path, query = _parse_target(method, target, headers)
    body_bytes: int | None = int(by_name.get(b"content-length", 0))
    if b"transfer-encoding" in by_name:
        _check_transfer_coding(by_name[b"transfer-encoding"], minor)
        body_bytes = None
    expects_continue = b"expect" in by_name and minor > 0
    if expects_continue and by_name[b"expect"].lower() != b"100-continue":
        raise Refusal(417, "The only expectation that is met here is 100-continue.")
    version, keep_alive = ("1.1", fields.keep_alive) if minor else ("1.0", False)
    return Head(method, path, query, version, headers, body_bytes, keep_alive, expects_continue)


def parse_request_line(raw: bytes) -> tuple[str, bytes, int]:
    """Return the method, the target and the minor version of the request line that `raw` begins with.

    Raises:
        Refusal: 400 if it is none, 501 for a method that is unknown, 505 for a major version other than 1.
    """
    found = _REQUEST_LINE.match(raw)
    if found is None:
        raise not_http()
    name, target, major, minor = found.groups()
    if major != b"1":
        raise Refusal(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if minor is None:
        raise not_http()
    method = name.decode()
    if method not in _METHODS:
        raise Refusal(501, "The method is unknown here.")
    return method, target, int(minor)


def check_beginning(raw: bytes, fresh: int) -> None:
    """Check what has arrived of a head whose end has not, so that nobody waits for the end of what is none.

    Args:
        raw: the beginning of the head.
        fresh: where the bytes start that have not been checked yet.

    Raises:
        Refusal: as `parse_head` would.
    """
    check_size(raw)
    line_end = raw.find(b"\r\n")
    if not _REQUEST_LINE_START.match(raw[:33]) or _STRAY_LINE_END.search(raw, max(0, fresh - 1)):
        raise not_http()
    if line_end >= max(0, fresh - 1):
        parse_request_line(raw)


def check_size(raw: bytes) -> None:
    """Check the lengths of the request line and of the header lines, complete or not.

    Raises:
        Refusal: 414 or 431.
    """
    if len(raw) <= min(MAX_REQUEST_LINE_BYTES, MAX_HEADER_BYTES):
        return
    line_end = raw.find(b"\r\n")
    if not 0 <= line_end <= MAX_REQUEST_LINE_BYTES:
        raise Refusal(414, f"The request line may have at most {MAX_REQUEST_LINE_BYTES:,} bytes.")
    if len(raw) - line_end > MAX_HEADER_BYTES:
        raise Refusal(431, f"The headers may have at most {MAX_HEADER_BYTES:,} bytes together.")


def not_http() -> Refusal:
    """Return the refusal of bytes that are no HTTP."""
    return Refusal(400, "This is not HTTP/1.1.")


@lru_cache(1024)
def is_host(value: bytes) -> bool:
    """Return whether a `Host` header has this value by RFC 9112 section 3.2; it may be empty."""
    found = _HOST.fullmatch(value)
    if found is None or found[1] is None:
        return found is not None
    try:
        IPv6Address(found[1].decode())
    except ValueError:
        return False
    return True


class _Fields:
    """The header lines as httptools finds them."""

    __slots__ = ("_parser", "headers", "keep_alive")

    def __init__(self, raw: bytes) -> None:
        self.headers: Headers = []
        self.keep_alive = True
        self._parser: Any = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass  # the offer of another protocol is declined: RFC 9110 section 7.8
        except httptools.HttpParserError as error:
            raise not_http() from error

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.keep_alive = self._parser.should_keep_alive()


def _check_not_repeated(headers: Headers, single_headers: frozenset[bytes]) -> None:
    names = [name for name, _ in headers if name in single_headers]
    for name in names:
        if names.count(name) > 1:
            raise Refusal(400, f"The header {name.decode().title()} may be sent once only.")


def _parse_target(method: str, target: bytes, headers: Headers) -> tuple[bytes, bytes]:
    """Return the path and query of a target that is no path, or that has a fragment (RFC 9112 section 3.2).

    A target with a host takes the place of the `Host` header.
    """
    if target == b"*" and method == "OPTIONS":
        return target, b""
    found = _ABSOLUTE_FORM.fullmatch(target)
    if found is None or b"#" in target or not is_host(found[1]):
        raise Refusal(400, "The request target is neither a path nor a valid URL.")
    authority, path, query = found.groups(b"")
    headers[:] = [(name, authority if name == b"host" else value) for name, value in headers]
    return path or b"/", query


def _check_transfer_coding(value: bytes, minor: int) -> None:
    """Check that a body comes in chunks and in nothing else (RFC 9112 section 6.1)."""
    if minor == 0:
        raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding.")
    if value.lower() != b"chunked":
        raise Refusal(501, "The only transfer coding that is known here is chunked.")
