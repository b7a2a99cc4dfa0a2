"""The ASGI scope of a request."""

import asyncio
import re
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

from service.transport.head import Head

_ESCAPED_SLASH = re.compile(rb"%2[Ff]")


def connection_scope(transport: asyncio.Transport, root_path: str) -> Scope:
    """Return the common part of the scopes of all requests on a connection."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "server": transport.get_extra_info("sockname"),
        "client": transport.get_extra_info("peername"),
        "scheme": "https" if transport.get_extra_info("sslcontext") else "http",
        "root_path": root_path,
    }


def request_scope(common: Scope, head: Head, state: dict[str, Any]) -> Scope:
    """Return the scope of a request; the application may change its `state`."""
    method, _, raw_path, query, minor, _ = head.line
    return {
        **common,
        "http_version": "1.1" if minor else "1.0",
        "method": method,
        "path": common["root_path"] + decode_path(raw_path),
        "raw_path": raw_path,
        "query_string": query,
        "headers": head.headers,
        "state": state.copy(),
    }


def decode_path(raw: bytes) -> str:
    """Decode the escapes of a path except `%2F`, which routing could not distinguish from a separator."""
    if b"%" not in raw:
        return raw.decode()
    return b"%2F".join(unquote_to_bytes(part) for part in _ESCAPED_SLASH.split(raw)).decode("utf-8", "replace")
