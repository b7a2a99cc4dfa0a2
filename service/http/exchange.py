"""One request on a connection and its answer, as the ASGI app sees them: its `receive` and its `send`."""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import Protocol

from starlette.types import Message, Scope

from service.http.draining import DRAIN

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_NO_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class Wire(Protocol):
    """What an exchange needs of the connection that it is on."""

    loop: asyncio.AbstractEventLoop
    lost: bool
    """Whether the client has hung up."""
    write_blocked: asyncio.Future[None] | None
    """Done when the client has read enough of what was written."""

    def write(self, data: bytes) -> None:
        """Sends bytes, if there is anybody left to read them."""

    def read_on(self) -> None:
        """Reads more, if reading had paused."""

    def common_headers(self) -> bytes:
        """The server's own, a line each."""

    def finish(self, exchange: "Exchange") -> None:
        """Goes on to the next request once one is answered."""


class Exchange:
    """One request and its answer: the app's `receive` and `send`."""

    __slots__ = (
        "_chunked",
        "_chunks",
        "_delivered",
        "_expects_continue",
        "_head",
        "_waiter",
        "_wire",
        "answered",
        "arrived",
        "keep_alive",
        "scope",
        "size",
        "task",
    )

    def __init__(self, wire: Wire, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
        self._wire = wire
        self.scope = scope
        self.keep_alive = keep_alive
        self.task: asyncio.Task[None] | None = None
        self.arrived = False
        """Whether all of the body is here."""
        self.size = 0
        """Bytes of it that the app has not taken."""
        self.answered = False
        self._chunks: list[bytes] = []
        self._delivered = False
        self._expects_continue = expects_continue
        self._waiter: asyncio.Future[None] | None = None
        self._head: bytes | None = None
        self._chunked = False

    def add(self, chunk: bytes) -> None:
        """A piece of the body; nobody wants it once there is an answer."""
        if not self.answered:
            self._chunks.append(chunk)
            self.size += len(chunk)
            self.wake()

    def wake(self) -> None:
        """Has `receive` look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> Message:
        """The body as far as it is here; after its end, the end of the exchange."""
        while not self._chunks and (self._delivered or not self.arrived):
            if self.answered or self._wire.lost:
                return {"type": "http.disconnect"}
            if self._expects_continue:
                self._expects_continue = False
                self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._wire.read_on()
            self._waiter = self._wire.loop.create_future()
            await self._waiter
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self.size = 0
        self._delivered = self.arrived
        return {"type": "http.request", "body": body, "more_body": not self.arrived}

    async def send(self, message: Message) -> None:
        """Writes the answer, head and first piece of the body at once."""
        if message["type"] == "http.response.start":
            self._head = self._compose(message["status"], message.get("headers", ()))
            return
        if self._wire.write_blocked is not None:
            await self._wire.write_blocked
        body: bytes = message.get("body", b"")
        if self.scope["method"] == "HEAD":
            body = b""
        more = message.get("more_body", False)
        if self._chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        if self._head is not None:
            body, self._head = self._head + body, b""
        self._wire.write(body)
        if not more:
            self.answered = True
            self.wake()
            self._wire.finish(self)

    def _compose(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        parts = [STATUS_LINES[status], self._wire.common_headers()]
        framed = status in _NO_BODY or self.scope["method"] == "HEAD"
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                framed = True
        if not framed and self.scope["http_version"] == "1.1":
            self._chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        if self._expects_continue and not self.arrived:
            self.keep_alive = False  # whether the body still comes, nobody can tell
        if DRAIN.under_way:
            self.keep_alive = False
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)
