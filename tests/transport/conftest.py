"""The protocol class on real sockets: a server in the event loop of the test, and clients that send raw bytes."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from service.transport.connection import Connection
from service.transport.options import Budget, Options, Refusal, Response

TIMEOUT = 10.0


class Overloaded(Exception):
    """The exception of `receive` when the bodies exceed their limit."""


@dataclass
class Server:
    """A running server."""

    app: ASGIApp
    options: Options
    state: ServerState = field(default_factory=ServerState)
    refusals: list[Refusal] = field(default_factory=list)
    port: int = 0
    drains: bool = False
    clients: list["Client"] = field(default_factory=list)

    async def connect(self, **options: Any) -> "Client":
        """Open a connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        self.clients.append(Client(reader, writer))
        return self.clients[-1]

    @property
    def connections(self) -> list[Connection]:
        return list(self.state.connections)  # type: ignore[arg-type]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)


@dataclass
class Received:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


@dataclass
class Client:
    """One connection of a client."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(TIMEOUT):
            await self.writer.drain()

    async def response(self, *, to_head: bool = False) -> Received:
        """Read the next response, which has a length or is chunked."""
        async with asyncio.timeout(TIMEOUT):
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")[:-2]
            headers = dict(line.lower().split(": ", 1) for line in lines[1:])
            body = b""
            if "content-length" in headers and not to_head:
                body = await self.reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    body += (await self.reader.readexactly(size + 2))[:-2]
                assert await self.reader.readexactly(2) == b"\r\n"
        status = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", lines[0])
        assert status, lines[0]
        return Received(int(status[1]), headers, body)

    async def rest(self) -> bytes:
        """Read to the end of the connection; a reset raises an error."""
        async with asyncio.timeout(TIMEOUT):
            return await self.reader.read()

    async def ask(self, data: bytes) -> Received:
        await self.send(data)
        return await self.response()


@asynccontextmanager
async def serving(
    app: ASGIApp,
    *,
    keep_alive_seconds: float = 60,
    connections: int = 100,
    body_bytes: int = 2**24,
    single_headers: frozenset[bytes] = frozenset(),
    root_path: str = "",
    state: dict[str, Any] | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Server]:
    """Serve `app` until the block ends; then every connection and task of the server must end."""
    refusals: list[Refusal] = []

    def refuse(refusal: Refusal) -> Response:
        refusals.append(refusal)
        return Response(refusal.status, [(b"x-refused", b"yes")], refusal.detail.encode())

    def drains() -> bool:
        return server.drains

    options = Options(
        refuse=refuse,
        overloaded=Overloaded,
        is_draining=drains,
        keep_alive_seconds=keep_alive_seconds,
        connections=Budget(connections),
        body_bytes=Budget(body_bytes),
        single_headers=single_headers,
    )
    server = Server(app, options, refusals=refusals)
    config = Config(app, root_path=root_path)
    make = partial(Connection, options, config, server.state, state or {})
    listener = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for client in server.clients:
            client.writer.close()
        for connection in server.connections:
            connection.shutdown()
        await server.until(lambda: not server.state.connections and not server.state.tasks)
        assert options.connections.used == 0
        assert options.body_bytes.used == 0


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Run with both event loops: uvloop is used in production, asyncio defines the interface."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


def request(
    path: str = "/", body: bytes = b"", *lines: str, method: str = "POST", version: str = "1.1", host: str | None = "x"
) -> bytes:
    """Return a request with `Content-Length`; `lines` are further header lines."""
    head = [f"{method} {path} HTTP/{version}", *([f"Host: {host}"] if host is not None else [])]
    head += [*([f"Content-Length: {len(body)}"] if body else []), *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


async def read_body(receive: Receive) -> bytes:
    """Read a whole body."""
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        more = message["more_body"]
    return body


async def respond(send: Send, status: int = 200, body: bytes = b"", *headers: tuple[bytes, bytes]) -> None:
    """Send a response of known length."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the path and the body back once the body is complete."""
    await respond(send, 200, scope["path"].encode() + b" " + await read_body(receive))


async def reject(scope: Scope, receive: Receive, send: Send) -> None:
    """Send 404 and read no body; at `/echo` do as `echo`."""
    if scope["path"] == "/echo":
        await echo(scope, receive, send)
    else:
        await respond(send, 404, b"nothing here")


async def closed_in_order(client: Client) -> bool:
    """Return whether the server ends the connection without another byte and without a reset."""
    return await client.rest() == b""
