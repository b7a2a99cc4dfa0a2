"""HTTP/1.1 on one connection: the protocol class that uvicorn is given in place of its own, at a third of its cost.

It speaks ASGI to the app like uvicorn's. A request starts once all that came with its head is parsed, so that one that
fits a packet never waits for its body; an answer leaves in one write; one timer watches a connection, not two a
request. A client that hangs up cancels the task of its request, so that nothing more is computed for it.
"""

import asyncio
import logging
from collections import deque
from typing import Any

from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from service.call import Call, new_request_id
from service.errors import ServiceError
from service.http.exchange import STATUS_LINES, Exchange
from service.http.parsing import Parser
from service.http.problems import MEDIA_TYPE, problem
from service.telemetry import metrics

logger = logging.getLogger(__name__)

MOST_BODY_AHEAD = 65536
"""Bytes of a body that are read before the app asks for them; one packet more may be held."""
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
        self._parser: Parser
        self._transport: asyncio.Transport
        self.lost = False
        self.write_blocked: asyncio.Future[None] | None = None
        """Done when the client has read enough of what was written."""
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
        common: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "server": transport.get_extra_info("sockname"),
            "client": transport.get_extra_info("peername"),
            "scheme": "https" if transport.get_extra_info("sslcontext") else "http",
            "root_path": self._root_path,
            "state": self._app_state,
        }
        self._parser = Parser(common, self._begin, self._end)
        self._idle_since = self.loop.time()
        self._check_idle()

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
        try:
            self._parser.feed(data)
        except ServiceError as error:
            self._refuse(error)
            return
        incoming = self._parser.incoming
        if incoming is not None and incoming.size > MOST_BODY_AHEAD:
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

    def _begin(self, scope: Scope, keep_alive: bool, expects_continue: bool) -> Exchange:
        exchange = Exchange(self, scope, keep_alive=keep_alive, expects_continue=expects_continue)
        if self._active is None:
            self._active = exchange
        else:
            self._queue.append(exchange)
            self._pause()
        return exchange

    def _end(self, exchange: Exchange) -> None:
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
        if self._parser.incoming is not None and self._parser.incoming.answered:
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

    def _check_idle(self) -> None:
        """Ends the connection if it has waited too long for a whole request, or for the client to read its answer."""
        unread = self._transport.get_write_buffer_size() > 0
        limit = MOST_UNREAD_SECONDS if unread else self._most_idle
        busy = self._active is not None and self.write_blocked is None
        idle = 0.0 if busy else self.loop.time() - self._idle_since
        if idle < limit:
            self._timer = self.loop.call_later(limit - idle, self._check_idle)
        else:
            self._transport.abort()
