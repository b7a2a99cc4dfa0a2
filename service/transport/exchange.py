"""One request and its response: the `receive` and `send` of an ASGI application."""

import asyncio
from collections.abc import Iterable
from typing import Protocol

from starlette.types import Message, Scope

from service.transport.head import Head
from service.transport.options import Options
from service.transport.response import BODILESS_STATUSES, CONTINUE, header_lines, status_line

MAX_DISCARDED_BYTES = 65536
"""Maximum remainder of a body that is read and dropped after the response to keep the connection. For a longer one, a
new connection costs less."""

_LENGTH, _CHUNKED, _NO_BODY, _TO_THE_END = "length", "chunked", "no body", "to the end of the connection"
"""How the end of a response is determined (RFC 9112 section 6.3)."""


class Wire(Protocol):
    """The connection as an exchange uses it."""

    loop: asyncio.AbstractEventLoop
    write_blocked: asyncio.Future[None] | None
    """Done when the client has read enough for more to be written; None while writing is possible."""
    is_closing: bool
    """Whether the server shuts down."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def resume_reading(self) -> None:
        """Resume reading if it is paused."""

    def common_headers(self) -> bytes:
        """Return the header lines of the server itself."""

    def body_remaining(self) -> int | None:
        """Return the bytes of the body that have not arrived; None if their number is unknown."""

    def end_response(self) -> None:
        """Continue with the next request after the last byte of the response."""


class Exchange:
    """One request and its response."""

    __slots__ = (
        "_charged",
        "_chunks",
        "_delivered",
        "_expects_continue",
        "_framing",
        "_options",
        "_over_budget",
        "_pending_head",
        "_unsent",
        "_waiter",
        "_wire",
        "body_complete",
        "is_detached",
        "keep_alive",
        "response_complete",
        "response_started",
        "scope",
        "task",
        "unread",
    )

    def __init__(self, wire: Wire, scope: Scope, head: Head, options: Options) -> None:
        self.scope = scope
        self.keep_alive = head.keep_alive
        """Whether another request may follow; final once the response has started."""
        self.task: asyncio.Task[None] | None = None
        """Runs the application."""
        self.body_complete = False
        self.unread = 0
        """Bytes of the body that have arrived and that the application has not received."""
        self.response_started = False
        self.response_complete = False
        self.is_detached = False
        """Whether the connection has abandoned the exchange: nothing more is sent or received."""
        self._wire = wire
        self._options = options
        self._charged = 0
        """Bytes of the body that count against the budget."""
        self._over_budget = False
        self._chunks: list[bytes] = []
        self._delivered = False
        """Whether the application has received the end of the body."""
        self._expects_continue = head.expects_continue
        self._waiter: asyncio.Future[None] | None = None
        """The future that `receive` waits for."""
        self._pending_head: bytes | None = None
        """The head of the response, which is sent with the first bytes of its body."""
        self._framing = _LENGTH
        self._unsent = 0
        """Bytes of the response that `Content-Length` announces and that have not been sent."""

    # the connection calls these

    def add(self, chunk: bytes) -> None:
        """Add a piece of the body."""
        if self._over_budget:
            return
        size = len(chunk)
        if self._options.body_bytes.take(size):
            self._charged += size
            self.unread += size
            self._chunks.append(chunk)
            self._expects_continue = False
        else:
            self._over_budget = True
            self._chunks.clear()
            self.unread = 0
            self._give_back()
        if self._waiter is not None:
            self._wake()

    def end_body(self) -> None:
        """Mark the end of the body."""
        self.body_complete = True
        if self._waiter is not None:
            self._wake()

    def detach(self) -> None:
        """Abandon the exchange: the client has disconnected or gets another response."""
        self.is_detached = True
        self._chunks.clear()
        self._give_back()

    # the application calls these

    async def receive(self) -> Message:
        """Return the part of the body that has arrived; after its end, wait for the end of the exchange.

        Raises:
            Exception: from `Options.overloaded`, if the bodies of all connections exceed their limit.
        """
        while not self._chunks and (self._delivered or not self.body_complete):
            if self.response_complete or self.is_detached:
                return {"type": "http.disconnect"}
            if self._over_budget:
                raise self._options.overloaded()
            if self._expects_continue:
                self._expects_continue = False
                self._wire.write(CONTINUE)
            self._wire.resume_reading()
            self._waiter = self._wire.loop.create_future()
            await self._waiter
        if self._over_budget:
            raise self._options.overloaded()
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self.unread = 0
        self._delivered = self.body_complete
        return {"type": "http.request", "body": body, "more_body": not self.body_complete}

    async def send(self, message: Message) -> None:
        """Send the response; its head is sent with the first bytes of its body.

        Raises:
            RuntimeError: the messages are not an ASGI response, or their length is not that of `Content-Length`.
            ValueError: a header is not valid.
        """
        wire = self._wire
        if wire.write_blocked is not None:
            await wire.write_blocked
        if self.is_detached:
            return
        if message["type"] == "http.response.start":
            if self._pending_head is not None or self.response_started:
                raise RuntimeError("The response has started already.")
            self._pending_head = self._start(message["status"], message.get("headers", ()))
            return
        more: bool = message.get("more_body", False)
        data: bytes = message.get("body", b"")
        if self._framing is not _LENGTH:
            data = self._frame(data, more)
        elif self._unsent != len(data) or more:
            self._check_length(len(data), more)
        if self._pending_head is not None:
            data, self._pending_head = self._pending_head + data, None
            self.response_started = True
        elif not self.response_started or self.response_complete:
            raise RuntimeError("The response has not started, or is complete.")
        wire.write(data)
        if not more:
            self.response_complete = True
            if self._waiter is not None:
                self._wake()
            if self._charged:
                self._give_back()
            wire.end_response()

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Choose the framing of the response and whether another may follow; return its head."""
        lines, length = header_lines(headers)
        if self.scope["method"] == "HEAD" or status in BODILESS_STATUSES:
            self._framing = _NO_BODY
        elif length is not None:
            self._unsent = length
        elif self.scope["http_version"] == "1.1":
            self._framing = _CHUNKED
            lines += b"transfer-encoding: chunked\r\n"
        else:
            self._framing = _TO_THE_END
        if not (self.keep_alive and self._may_persist()):
            self.keep_alive = False
            lines += b"connection: close\r\n"
        return b"%b%b%b\r\n" % (status_line(status), self._wire.common_headers(), lines)

    def _may_persist(self) -> bool:
        """Whether another request may follow this response."""
        if self._wire.is_closing or self._options.is_draining():
            return False
        if self.body_complete:
            return True
        remaining = self._wire.body_remaining()
        # A client that waits for `100 Continue` may leave the body out: where its next request begins is unknown.
        return not self._expects_continue and remaining is not None and remaining <= MAX_DISCARDED_BYTES

    def _check_length(self, size: int, more: bool) -> None:
        self._unsent -= size
        if self._unsent < 0 or (self._unsent and not more):
            raise RuntimeError("The response is not as long as its Content-Length.")

    def _frame(self, body: bytes, more: bool) -> bytes:
        if self._framing is _CHUNKED:
            return (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        return b"" if self._framing is _NO_BODY else body

    def _wake(self) -> None:
        assert self._waiter is not None
        if not self._waiter.done():
            self._waiter.set_result(None)

    def _give_back(self) -> None:
        self._options.body_bytes.give_back(self._charged)
        self._charged = 0
