"""HTTP/1.1 on one connection: the protocol class that uvicorn is given in place of its own, at a third of its cost.

It speaks ASGI to the app like uvicorn's. A request starts once all that came with its head is parsed, so that one that
fits a packet never waits for its body; an answer leaves in one write; one timer watches a connection, not two a
request. A client that hangs up cancels the task of its request, so that nothing more is computed for it.
"""

import asyncio
import logging
from collections import deque
from typing import Any
from urllib.parse import unquote_to_bytes

import httptools
from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from service.call import Call, new_request_id
from service.errors import HeadTooLarge, Malformed, ServiceError
from service.http.exchange import STATUS_LINES, Exchange
from service.http.problems import MEDIA_TYPE, problem
from service.telemetry import metrics

logger = logging.getLogger(__name__)

MOST_HEAD_BYTES = 65536
"""Of a request line and its headers; they are counted when a packet is parsed, so that one packet more may be held."""
MOST_BODY_AHEAD = 65536
"""Bytes of a body that are read before the app asks for them; again, one packet more."""
MOST_UNREAD_SECONDS = 60.0
"""How long an answer is kept for a client that does not read it."""


class Connection(asyncio.Protocol):
    """What uvicorn calls an HTTP protocol: it makes one for each connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self._app: Any = config.app  # without the middleware by which uvicorn would trust proxies: nobody asks for it
        self._root_path = config.root_path
        self._most_idle = config.timeout_keep_alive
        self._server = server_state
        self._app_state = app_state
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self.lost = False
        self.write_blocked: asyncio.Future[None] | None = None
        """Done when the client has read enough of what was written."""
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        self._head_bytes = 0
        """Of the head that is not yet complete."""
        self._is_stand_in = False
        """Whether the head that is parsed stands in for one that is parsed already."""
        self._incoming: Exchange | None = None
        """Its body is arriving."""
        self._active: Exchange | None = None
        """It is being answered."""
        self._queue: deque[Exchange] = deque()
        """Sent before the active one was answered."""
        self._reading = True
        self._closing = False
        self._idle_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # asyncio calls these

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._server.connections.add(self)  # type: ignore[arg-type]  # a set of uvicorn's own protocols
        self._client = transport.get_extra_info("peername")
        self._address = transport.get_extra_info("sockname")
        self._scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        self._idle_since = self.loop.time()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.lost = True
        self._server.connections.discard(self)
        self.resume_writing()
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()
        if self._active is not None and self._active.task is not None:
            self._active.task.cancel()

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse(Malformed("This is not HTTP/1.1."))
            return
        if self._head_bytes > MOST_HEAD_BYTES:
            self._refuse(HeadTooLarge(f"The head of a request may have at most {MOST_HEAD_BYTES:,} bytes."))
            return
        if self._incoming is not None and self._incoming.size > MOST_BODY_AHEAD:
            self._pause()
        if self._active is not None and self._active.task is None:
            self._start(self._active)

    def pause_writing(self) -> None:
        self._idle_since = self.loop.time()
        self.write_blocked = self.loop.create_future()

    def resume_writing(self) -> None:
        if self.write_blocked is not None and not self.write_blocked.done():
            self.write_blocked.set_result(None)
        self.write_blocked = None

    # uvicorn calls this

    def shutdown(self) -> None:
        """Takes no further request: closes now, or once those that came in are answered."""
        self._closing = True
        if self._active is None:
            self._transport.close()

    # the parser calls these

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self._expects_continue = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._incoming is not None:  # a trailer: behind the body, where no proxy has looked at it
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
        exchange = Exchange(
            self,
            self._scope(),
            keep_alive=self._parser.get_http_version() == "1.1" and self._parser.should_keep_alive(),
            expects_continue=self._expects_continue,
        )
        self._incoming = exchange
        if self._active is None:
            self._active = exchange
        else:
            self._queue.append(exchange)
            self._pause()

    def on_body(self, body: bytes) -> None:
        assert self._incoming is not None
        self._head_bytes = 0
        self._incoming.add(body)

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade():
            return
        exchange, self._incoming = self._incoming, None
        assert exchange is not None
        self._head_bytes = 0
        exchange.arrived = True
        exchange.wake()
        if exchange is self._active and exchange.task is None:
            self._start(exchange)

    # an exchange calls these

    def write(self, data: bytes) -> None:
        """Sends bytes, if there is anybody left to read them."""
        if not self.lost:
            self._transport.write(data)

    def read_on(self) -> None:
        """Reads more, if reading had paused."""
        if not self._reading and not self.lost:
            self._reading = True
            self._transport.resume_reading()

    def common_headers(self) -> bytes:
        """The server's own, such as the date: uvicorn renews them each second."""
        return b"".join([b"%b: %b\r\n" % pair for pair in self._server.default_headers])

    def finish(self, exchange: Exchange) -> None:
        """Goes on to the next request once one is answered."""
        self._server.total_requests += 1
        self._active = None
        self._idle_since = self.loop.time()
        if not exchange.keep_alive or self._transport.is_closing():
            self._transport.close()
        elif self._queue:
            self._active = self._queue.popleft()
            self._start(self._active)
        elif self._closing:
            self._transport.close()
        else:
            self.read_on()

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

    def _scope(self) -> Scope:
        raw_path, _, query = self._url.partition(b"?")
        if not raw_path.startswith(b"/"):  # `GET http://host/path`, as to a proxy, or `OPTIONS *`
            url = httptools.parse_url(self._url)
            raw_path, query = url.path or b"", url.query or b""
        path = (unquote_to_bytes(raw_path) if b"%" in raw_path else raw_path).decode("utf-8", "replace")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": self._parser.get_http_version(),
            "server": self._address,
            "client": self._client,
            "scheme": self._scheme,
            "root_path": self._root_path,
            "method": self._parser.get_method().decode("ascii"),
            "path": self._root_path + path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self._headers,
            "state": self._app_state.copy(),
        }

    def _start(self, exchange: Exchange) -> None:
        exchange.task = self.loop.create_task(self._answer(exchange))
        self._server.tasks.add(exchange.task)
        exchange.task.add_done_callback(self._server.tasks.discard)

    async def _answer(self, exchange: Exchange) -> None:
        """Runs the app; one that fails or ends early cannot leave the client waiting."""
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception:
            logger.exception("the application failed")
        finally:
            if not exchange.answered and not self.lost:
                self._transport.close()

    def _refuse(self, error: ServiceError) -> None:
        """Answers bytes that are no request and hangs up; a whole request under way is answered first."""
        metrics.requests("other", "", "", error.outcome).ended(Call(), 0)
        self._pause()
        if self._active is not None and self._active.arrived:
            self._active.keep_alive = False
            self._queue.clear()
            return
        if self._incoming is not None and self._incoming.answered:
            self._transport.close()
            return
        request_id = new_request_id()
        body = problem(error, request_id)
        head = (
            *(STATUS_LINES[error.status], self.common_headers(), b"content-type: ", MEDIA_TYPE.encode()),
            *(b"\r\ncontent-length: ", str(len(body)).encode(), b"\r\nx-request-id: ", request_id.encode()),
            b"\r\nconnection: close\r\n\r\n",
        )
        self._transport.write(b"".join(head) + body)
        self._transport.close()

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _watch(self) -> None:
        """Ends the connection if it has waited too long for a whole request, or for the client to read its answer."""
        unread = self._transport.get_write_buffer_size() > 0
        limit = MOST_UNREAD_SECONDS if unread else self._most_idle
        busy = self._active is not None and self.write_blocked is None
        idle = 0.0 if busy else self.loop.time() - self._idle_since
        if idle < limit:
            self._timer = self.loop.call_later(limit - idle, self._watch)
        else:
            self._transport.abort()
