"""The protocol class that uvicorn makes for each connection, in place of its own: HTTP/1.1 between a socket and ASGI.

It drives the state machine of `states`. A response is sent in one write, each connection has one timer (`watchdog`),
and a client that hangs up cancels the task of its request. `load_tests.bench.protocol` compares the cost of this class
with uvicorn's own.
"""

import asyncio
import logging
from typing import Any

from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from service.transport.exchange import Exchange
from service.transport.options import Options, Refusal
from service.transport.reader import Reader
from service.transport.response import CONTINUE, header_lines, status_line
from service.transport.scope import connection_scope, request_scope
from service.transport.states import (
    BODY_END,
    CLOSE,
    CLOSED,
    DISCARDING,
    IDLE,
    LAST_RESPONSE,
    LINGERING,
    RECEIVING,
    REQUEST,
    RESPONDING,
    RESPONSE,
    TRANSITIONS,
    Event,
    State,
)
from service.transport.watchdog import Watchdog

logger = logging.getLogger(__name__)

MAX_UNREAD_BYTES = 65536
"""Bytes of a body, or of the requests after the present one, that are held before reading pauses. The packet that
exceeds the limit is still held."""
LINGER_BYTES = 64 * 2**20
"""LINGERING: bytes that a client may send."""
PROBE_SECONDS = 0.1
"""Interval of the probes of a client that has ended its side and waits for a response."""


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(
        self,
        options: Options,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = _loop or asyncio.get_running_loop()
        self.state: State = IDLE
        self.in_head = False
        """IDLE: whether the first bytes of a head have arrived."""
        self.write_blocked: asyncio.Future[None] | None = None
        self.is_closing = False
        self._options = options
        self._app: Any = config.app  # without uvicorn's middleware for proxies
        self._root_path = config.root_path
        self._server = server_state
        self._app_state = app_state
        self._reader = Reader(options.single_headers)
        self._exchange: Exchange | None = None
        """The request that is being received or answered; None in every other state."""
        self._transport: asyncio.Transport
        self._common_scope: Scope
        self._common_headers: list[tuple[bytes, bytes]] | None = None
        self._common_lines = b""
        """`_common_headers` as bytes."""
        self._is_admitted = False
        """Whether the connection is counted against `Options.connections`."""
        self._reading = True
        self._eof = False
        """Whether the client has ended its side."""
        self._lingered_bytes = 0
        self._watchdog = Watchdog(self.loop, self, options)
        self._probe_timer: asyncio.TimerHandle | None = None

    # asyncio calls these

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._server.connections.add(self)  # type: ignore[arg-type]  # a set of uvicorn's own protocols
        self._common_scope = connection_scope(transport, self._root_path)
        connections = self._options.connections
        self._is_admitted = connections.take(1)
        if self._is_admitted:
            self._watchdog.check()
        elif len(self._server.connections) <= 2 * connections.limit:
            self._refuse(Refusal(503, "The server has as many connections as it takes."))
        else:
            self.abort()

    def data_received(self, data: bytes) -> None:
        if self.state is LINGERING:
            self._drop(data)
        elif self.state is not CLOSED:
            self._reader.buffer += data
            self._read()

    def eof_received(self) -> bool:
        """Keep the connection if the client waits for a response; otherwise close it."""
        self._eof = True
        if self.state is RESPONDING and self._transport.can_write_eof():
            self._probe_timer = self.loop.call_later(PROBE_SECONDS, self._probe)
            return True
        self._close()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._move(CLOSE)
        self._give_exchange_up()
        self.resume_writing()
        self._server.connections.discard(self)
        self._options.connections.give_back(int(self._is_admitted))
        self._watchdog.cancel()
        if self._probe_timer is not None:
            self._probe_timer.cancel()

    def pause_writing(self) -> None:
        self.write_blocked = self.loop.create_future()
        self._watchdog.restart()
        self._watchdog.check()

    def resume_writing(self) -> None:
        if self.write_blocked is not None and not self.write_blocked.done():
            self.write_blocked.set_result(None)
        self.write_blocked = None

    # uvicorn calls this

    def shutdown(self) -> None:
        """Accept no further request: close now if idle, otherwise after the present response."""
        self.is_closing = True
        if self.state is IDLE:
            self._close()

    # the exchange calls these

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def common_headers(self) -> bytes:
        headers = self._server.default_headers
        if headers is not self._common_headers:  # uvicorn makes a new list each second
            self._common_headers = headers
            self._common_lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
        return self._common_lines

    def body_remaining(self) -> int | None:
        return self._reader.remaining

    def end_response(self) -> None:
        assert self._exchange is not None
        keep_alive = self._exchange.keep_alive and not self.is_closing
        self._exchange = None
        self._server.total_requests += 1
        if not keep_alive:
            self._linger()
            return
        self._move(RESPONSE)
        self._watchdog.restart()
        if not self._reading:
            self.resume_reading()
        if self.state is DISCARDING:
            self._watchdog.restart_lingering()
        if self._reader.buffer or self._eof:
            self._read()

    # the watchdog calls these

    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close the connection at once."""
        self._move(CLOSE)
        self._give_exchange_up()
        self._transport.abort()

    # requests

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]

    def _read(self) -> None:
        """Read what has arrived, as far as the state allows."""
        try:
            if self.state is DISCARDING:
                self._watchdog.restart()
                self._read_body()
            if self.state is IDLE:
                self._read_head()
            if self.state is RECEIVING:
                self._read_body()
        except Refusal as refusal:
            self._refuse(refusal)
        exchange = self._exchange
        if exchange is None:
            return
        if exchange.task is None:
            exchange.task = self.loop.create_task(self._run(exchange))
            self._server.tasks.add(exchange.task)
        unread = exchange.unread if self.state is RECEIVING else len(self._reader.buffer)
        if unread > MAX_UNREAD_BYTES and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _read_head(self) -> None:
        head = self._reader.read_head()
        if head is not None:
            self.in_head = False
            self._move(REQUEST)
            self._exchange = Exchange(
                self, request_scope(self._common_scope, head, self._app_state), head, self._options
            )
        elif self._eof or self.is_closing:
            self._close()
        elif self._reader.buffer and not self.in_head:
            self.in_head = True
            self._watchdog.restart()
            self._watchdog.check()

    def _read_body(self) -> None:
        data = self._reader.read_body()
        if data and self._exchange is not None:
            self._exchange.add(data)
        if self._reader.remaining == 0:
            self._move(BODY_END)
            if self._exchange is not None:
                self._exchange.end_body()

    async def _run(self, exchange: Exchange) -> None:
        """Run the application. If it fails or ends without a complete response, the client gets a 500."""
        task = exchange.task
        assert task is not None
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception:
            logger.exception("the application failed")
        finally:
            self._server.tasks.discard(task)
            exchange.task = None
            if exchange is self._exchange:
                self._refuse(Refusal(500, "The server failed to answer."))

    def _refuse(self, refusal: Refusal) -> None:
        """Send an error response in place of the application's, and end the connection."""
        exchange = self._exchange
        if exchange is not None:
            refusal.method, refusal.path = exchange.scope["method"], exchange.scope["path"]
            if exchange.response_started:  # only an aborted connection shows the client that the response is incomplete
                self.abort()
                return
        self._give_exchange_up()
        response = self._options.refuse(refusal)
        lines, _ = header_lines([*response.headers, (b"content-length", b"%d" % len(response.body))])
        head = b"%b%b%bconnection: close\r\n\r\n" % (status_line(response.status), self.common_headers(), lines)
        self.write(head if refusal.method == "HEAD" else head + response.body)
        self._linger()

    def _give_exchange_up(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        exchange.detach()
        if exchange.task is not None:
            exchange.task.add_done_callback(self._server.tasks.discard)  # `_run` does not if it has not begun
            exchange.task.cancel()

    # the end of the connection

    def _linger(self) -> None:
        """End the server's side, and keep reading until the client ends its own (RFC 9112 section 9.6)."""
        nothing_follows = self.state is RESPONDING and not self._reader.buffer
        self._move(LAST_RESPONSE)
        self._reader.buffer = b""
        has_half_close = self._transport.can_write_eof()
        if self._eof or self._transport.is_closing() or (nothing_follows and not has_half_close):
            self._close()
            return
        if has_half_close:
            self._transport.write_eof()
        self.resume_reading()
        self._watchdog.restart_lingering()

    def _drop(self, data: bytes) -> None:
        self._watchdog.restart()
        self._lingered_bytes += len(data)
        if self._lingered_bytes > LINGER_BYTES:
            self.abort()

    def _close(self) -> None:
        """Close the connection once everything written has been sent."""
        self._move(CLOSE)
        self._give_exchange_up()
        self._watchdog.restart()
        self._transport.close()

    def _probe(self) -> None:
        """Send an interim response to a client that has ended its side: one that has gone resets the connection.

        HTTP/1.1 clients accept an interim response at any time (RFC 9110 section 15.2).
        """
        exchange = self._exchange
        if exchange is not None and exchange.scope["http_version"] == "1.1" and not exchange.response_started:
            self.write(CONTINUE)
        self._probe_timer = self.loop.call_later(PROBE_SECONDS, self._probe)
