"""The first line of a request: method, target and version (RFC 9112 section 3)."""

import re
from functools import lru_cache
from ipaddress import IPv6Address
from typing import NamedTuple

from service.transport.options import Refusal

MAX_CACHED_BYTES = 256
"""Maximum length of request lines whose result is cached, since clients repeat them."""
MAX_HOST_BYTES = 262
"""A name of 255 bytes, a colon and a port."""

_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")}
"""The methods of RFC 9110 and 5789 without CONNECT, which an origin server need not implement."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VERSION = re.compile(rb"HTTP/([0-9])(?:\.([0-9]))?")
_PATH = re.compile(rb"(/[!-~]*)")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]+)(/[^?]*)?(?:\?(.*))?", re.IGNORECASE)
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")


class RequestLine(NamedTuple):
    """A valid request line."""

    method: str
    target: bytes
    path: bytes
    """The path of the target, percent-encoded; `*` for `OPTIONS *`."""
    query: bytes
    minor: int
    """The minor version of HTTP/1."""
    authority: bytes | None
    """Host and port of a target that is a URL; they replace the `Host` header."""


def parse_request_line(line: bytes) -> RequestLine:
    """Parse a request line without its line end.

    Raises:
        Refusal: 400 if it is malformed, 501 for an unknown method, 505 for a major version other than 1.
    """
    return _parse_cached(line) if len(line) <= MAX_CACHED_BYTES else _parse(line)


def _parse(line: bytes) -> RequestLine:
    name, _, rest = line.partition(b" ")
    target, _, version = rest.partition(b" ")
    found = _VERSION.fullmatch(version)
    if found is None or not target or not _TOKEN.fullmatch(name):
        raise not_http()
    if found[1] != b"1":
        raise Refusal(505, "Only HTTP/1.1 and HTTP/1.0 are supported.")
    if found[2] is None:
        raise not_http()
    if (method := _METHODS.get(name)) is None:
        raise Refusal(501, "The method is not supported.")
    path, query, authority = _parse_target(method, target)
    return RequestLine(method, target, path, query, int(found[2]), authority)


_parse_cached = lru_cache(1024)(_parse)


def _parse_target(method: str, target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Return path, query and authority (RFC 9112 section 3.2)."""
    if target == b"*" and method == "OPTIONS":
        return target, b"", None
    if b"#" not in target:
        if _PATH.fullmatch(target):
            path, _, query = target.partition(b"?")
            return path, query, None
        found = _ABSOLUTE_FORM.fullmatch(target)
        if found is not None and is_host(found[1]):
            authority, path, query = found.groups(b"")
            return path or b"/", query, authority
    raise Refusal(400, "The request target is neither a path nor a valid URL.")


def is_host(value: bytes) -> bool:
    """Return whether a `Host` header may have this value (RFC 9112 section 3.2); it may be empty."""
    return len(value) <= MAX_HOST_BYTES and _matches_host(value)


@lru_cache(1024)
def _matches_host(value: bytes) -> bool:
    found = _HOST.fullmatch(value)
    if found is None or found[1] is None:
        return found is not None
    try:
        IPv6Address(found[1].decode())
    except ValueError:
        return False
    return True


def not_http() -> Refusal:
    """Return the refusal of bytes that are not HTTP."""
    return Refusal(400, "This is not HTTP/1.1.")
