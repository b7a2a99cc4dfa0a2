"""The head of a request: its request line and headers, parsed by httptools and checked against RFC 9110 and 9112.

httptools (llhttp) rejects malformed header lines and ambiguous lengths. This module checks what llhttp leaves open: the
request line, `Host`, headers that must not repeat, transfer codings, expectations. It is given complete heads only, so
that no verdict depends on how the bytes were split into packets.
"""

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import NamedTuple

import httptools

from service.transport.options import Headers, Refusal

MAX_REQUEST_LINE_BYTES = 65536
MAX_HEADER_BYTES = 65536
"""Of all header lines of a request together, and of all its trailers."""

_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")}
"""Those of RFC 9110 and 5789. CONNECT is missing: an origin server need not implement it."""

_SINGLE_HEADERS = frozenset((b"host", b"authorization", b"content-type", b"content-length", b"origin"))

_CONTROL_HEADERS = frozenset((b"transfer-encoding", b"expect", b"connection"))

_SLASH = ord("/")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VERSION = re.compile(rb"HTTP/([0-9])(?:\.([0-9]))?")
_REQUEST_LINE_START = re.compile(rb"%b(?: |\Z)" % _TOKEN.pattern)
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
    if len(raw) > MAX_REQUEST_LINE_BYTES:
        check_size(raw)
    lines = raw.split(b"\r\n")
    method, target, minor = parse_request_line(lines[0])
    try:
        if minor > 1:  # RFC 9110 section 2.5: served as the highest minor version that is known here
            raw = b" ".join((method.encode(), target, b"HTTP/1.1")) + raw[len(lines[0]) :]
        return _interpret(method, target, minor, _parse_headers(raw, lines[1:-2]), single_headers)
    except Refusal as refusal:
        refusal.method, refusal.path = method, target.partition(b"?")[0].decode("ascii", "replace")
        raise


def _interpret(method: str, target: bytes, minor: int, headers: Headers, single_headers: frozenset[bytes]) -> Head:
    by_name = dict(headers)
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
    keep_alive, expects_continue = minor > 0, False
    if not _CONTROL_HEADERS.isdisjoint(by_name):
        if b"transfer-encoding" in by_name:
            _check_transfer_coding(by_name[b"transfer-encoding"], minor)
            body_bytes = None
        expects_continue = minor > 0 and _expects_continue(by_name.get(b"expect"))
        keep_alive = keep_alive and not _ends_connection(headers)
    version = "1.1" if minor else "1.0"
    return Head(method, path, query, version, headers, body_bytes, keep_alive, expects_continue)


def parse_request_line(line: bytes) -> tuple[str, bytes, int]:
    """Return the method, the target and the minor version of a request line; the target is not checked.

    Raises:
        Refusal: 400 if it is none, 501 for a method that is unknown, 505 for a major version other than 1.
    """
    name, _, rest = line.partition(b" ")
    target, _, version = rest.partition(b" ")
    method = _METHODS.get(name)
    if method is not None and version == b"HTTP/1.1":
        return method, target, 1
    found = _VERSION.fullmatch(version)
    if found is None or not target or not _TOKEN.fullmatch(name):
        raise not_http()
    if found[1] != b"1":
        raise Refusal(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if found[2] is None:
        raise not_http()
    if method is None:
        raise Refusal(501, "The method is unknown here.")
    return method, target, int(found[2])


def check_beginning(raw: bytes, fresh: int) -> None:
    """Check what has arrived of a head whose end has not, so that nobody waits for the end of what is none.

    Args:
        raw: the beginning of the head.
        fresh: where the bytes begin that have not been checked.

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


def _parse_headers(raw: bytes, lines: list[bytes]) -> Headers:
    """Have llhttp check the whole head; then the header lines are what they look like, and splitting them is safe."""
    try:
        httptools.HttpRequestParser(None).feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # the offer of another protocol is declined: RFC 9110 section 7.8
    except httptools.HttpParserError as error:
        raise not_http() from error
    fields = [line.partition(b":") for line in lines]
    return [(name.lower(), value.strip(b" \t")) for name, _, value in fields]


def _ends_connection(headers: Headers) -> bool:
    """Return whether a `Connection` header has the option `close` (RFC 9112 section 9.6)."""
    values = b",".join(value for name, value in headers if name == b"connection")
    return b"close" in (option.strip().lower() for option in values.split(b","))


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


def _expects_continue(value: bytes | None) -> bool:
    if value is not None and value.lower() != b"100-continue":
        raise Refusal(417, "The only expectation that is met here is 100-continue.")
    return value is not None


def _check_transfer_coding(value: bytes, minor: int) -> None:
    """Check that a body comes in chunks and in nothing else (RFC 9112 section 6.1)."""
    if minor == 0:
        raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding.")
    if value.lower() != b"chunked":
        raise Refusal(501, "The only transfer coding that is known here is chunked.")
