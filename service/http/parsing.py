"""Bytes to requests: what httptools finds in the bytes of a connection, as requests whose bodies are still arriving.

An offer of another protocol is declined, trailers are dropped, and no head may be longer than `MOST_HEAD_BYTES`.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import httptools
from starlette.types import Scope

from service.errors import HeadTooLarge, Malformed
from service.http.exchange import Exchange

MOST_HEAD_BYTES = 65536
"""Of a request line and its headers; they are counted when a packet is parsed, so that one packet more may be held."""


class Parser:
    """Finds the requests of one connection."""

    def __init__(
        self, common: Scope, begin: Callable[[Scope, bool, bool], Exchange], end: Callable[[Exchange], None]
    ) -> None:
        """A parser that has seen nothing yet.

        Args:
            common: what the scopes of all requests say.
            begin: called with the scope of each, whether the connection is to live on after it and whether its client
                waits for a go-ahead, when its head is there; gives what its body goes to.
            end: called with that when all of the body is there.
        """
        self.incoming: Exchange | None = None
        """Its body is arriving."""
        self._common = common
        self._begin, self._end = begin, end
        self._parser: Any = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        self._head_bytes = 0
        """Of the head that is not yet complete."""
        self._is_stand_in = False
        """Whether the head that is parsed stands in for one that is parsed already."""

    def feed(self, data: bytes) -> None:
        """Takes what the client has sent.

        Raises:
            Malformed: it is not HTTP/1.1.
            HeadTooLarge: a head has too many bytes.
        """
        self._head_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError as error:
            raise Malformed("This is not HTTP/1.1.") from error
        if self._head_bytes > MOST_HEAD_BYTES:
            raise HeadTooLarge(f"The head of a request may have at most {MOST_HEAD_BYTES:,} bytes.")

    # httptools calls these

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self._expects_continue = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.incoming is not None:  # a trailer: behind the body, where no proxy has looked at it
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        if self._is_stand_in:
            self._is_stand_in = False
            return
        version = self._parser.get_http_version()
        keep_alive = version == "1.1" and self._parser.should_keep_alive()
        self.incoming = self._begin(self._scope(version), keep_alive, self._expects_continue)

    def on_body(self, body: bytes) -> None:
        assert self.incoming is not None
        self._head_bytes = 0
        self.incoming.add(body)

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        exchange, self.incoming = self.incoming, None
        assert exchange is not None
        self._head_bytes = 0
        self._end(exchange)

    def _parse(self, data: bytes | memoryview) -> None:
        """Feeds the parser, which stops where a head offers another protocol, as Java's client does (`h2c`).

        The offer is declined: a new parser goes on at the body, behind a head that says no more than how long it is.
        """
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                data = memoryview(data)[stop.args[0] :]
                framing = [pair for pair in self._headers if pair[0] in (b"content-length", b"transfer-encoding")]
                self._parser = httptools.HttpRequestParser(self)
                self._is_stand_in = True
                lines = b"".join(b"%b: %b\r\n" % pair for pair in framing)
                self._parser.feed_data(b"POST / HTTP/1.1\r\n" + lines + b"\r\n")
            else:
                return

    def _scope(self, version: str) -> Scope:
        raw_path, _, query = self._url.partition(b"?")
        if not raw_path.startswith(b"/"):  # `GET http://host/path`, as to a proxy, or `OPTIONS *`
            url = httptools.parse_url(self._url)
            raw_path, query = url.path or b"", url.query or b""
        path = (unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path).decode("utf-8", "replace")
        return {
            **self._common,
            "http_version": version,
            "method": self._parser.get_method().decode("ascii"),
            "path": self._common["root_path"] + path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
            "state": self._common["state"].copy(),
        }
