"""Limits of connections, of the total bytes of bodies, and of the time that a client may keep a connection waiting."""

import asyncio
from contextlib import suppress

import pytest
from starlette.types import Receive, Scope, Send

from service.transport import watchdog
from tests.transport.conftest import Overloaded, closed_in_order, echo, read_body, request, respond, serving

pytestmark = pytest.mark.anyio


async def careful(scope: Scope, receive: Receive, send: Send) -> None:
    """Do as `echo`, but send 503 if the body exceeds the limit."""
    try:
        content = await read_body(receive)
    except Overloaded:
        await respond(send, 503)
    else:
        await respond(send, 200, scope["path"].encode() + b" " + content)


async def test_a_connection_too_many_gets_a_503() -> None:
    async with serving(echo, connections=2) as server:
        clients = [await server.connect() for _ in range(2)]
        await server.until(lambda: len(server.connections) == 2)
        third = await server.connect()
        received = await third.ask(request("/", b"x" * 2**20))
        assert (received.status, received.closes) == (503, True)
        assert await closed_in_order(third)
        assert [(await client.ask(request())).status for client in clients] == [200, 200]
        clients[0].writer.close()
        third.writer.close()
        await server.until(lambda: len(server.connections) == 1)
        assert (await (await server.connect()).ask(request())).status == 200


async def test_rejected_connections_are_limited_too() -> None:
    async with serving(echo, connections=2) as server:
        clients = [await server.connect() for _ in range(10)]
        await server.until(lambda: len(server.connections) <= 4)
        assert (await clients[0].ask(request())).status == 200


async def test_a_body_over_the_total_limit_is_rejected_and_others_are_not() -> None:
    async with serving(careful, body_bytes=100_000) as server:
        first, second = await server.connect(), await server.connect()
        whole = request("/a", b"x" * 60_000)
        await first.send(whole[:-1])
        await server.until(lambda: server.options.body_bytes.used > 59_000)
        received = await second.ask(request("/b", b"y" * 60_000))
        assert received.status == 503
        assert server.options.body_bytes.used < 60_000
        await first.send(whole[-1:])
        assert (await first.response()).status == 200
        assert server.options.body_bytes.used == 0
        assert (await first.ask(request("/c", b"y" * 60_000))).status == 200


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_rejected_while_it_arrives(chunked: bool) -> None:
    async with serving(careful, body_bytes=100_000) as server:
        client = await server.connect()
        data = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFF\r\n" + b"x" * 300_000
        await client.send(data if chunked else request("/", b"x" * 300_000)[:-1])
        received = await client.response()
        assert (received.status, received.closes) == (503, True)
        assert await closed_in_order(client)


@pytest.mark.parametrize("ends", ["response", "hang-up", "failure"])
async def test_bytes_are_released_when_the_request_ends(ends: str) -> None:
    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        if ends == "failure":
            await receive()
            raise ValueError
        await read_body(receive)
        await respond(send)

    async with serving(app) as server:
        client = await server.connect()
        data = request("/", b"x" * 1000)
        await client.send(data if ends == "response" else data[:-1])
        if ends == "hang-up":
            await server.until(lambda: server.options.body_bytes.used == 999)
            client.writer.close()
        else:
            await client.response()
        await server.until(lambda: server.options.body_bytes.used == 0)


async def test_an_unread_body_is_released() -> None:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await respond(send)

    async with serving(app, body_bytes=1000) as server:
        client = await server.connect()
        for _ in range(3):
            assert (await client.ask(request("/", b"x" * 60_000))).status == 200


@pytest.mark.parametrize("asked", [False, True])
async def test_an_idle_connection_is_closed(asked: bool) -> None:
    async with serving(echo, keep_alive_seconds=0.2) as server:
        client = await server.connect()
        if asked:
            await asyncio.sleep(0.15)
            assert not (await client.ask(request())).closes
        started = asyncio.get_running_loop().time()
        assert await closed_in_order(client)
        assert 0.1 < asyncio.get_running_loop().time() - started < 1


async def test_a_draining_server_closes_idle_connections_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "DRAIN_IDLE_SECONDS", 0.2)
    async with serving(echo) as server:
        client = await server.connect()
        await client.ask(request())
        await asyncio.sleep(0.5)
        assert server.connections
        server.drains = True
        assert await closed_in_order(client)


async def test_a_request_longer_than_the_keep_alive_time_is_answered() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.5)
        await echo(scope, receive, send)

    async with serving(app, keep_alive_seconds=0.1) as server:
        client = await server.connect()
        await client.send(request() * 2)
        assert [(await client.response()).status for _ in range(2)] == [200, 200]


async def test_an_incomplete_head_does_not_hold_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "HEAD_SECONDS", 0.2)
    async with serving(echo) as server:
        client = await server.connect()
        await client.ask(request())
        with suppress(ConnectionResetError):  # a byte may cross the server's close
            for byte in request()[:-4]:
                if not server.connections:
                    break
                await client.send(bytes([byte]))
                await asyncio.sleep(0.02)
            assert await closed_in_order(client)
        assert not server.connections


@pytest.mark.parametrize("complete", [False, True])
async def test_a_client_that_does_not_read_is_disconnected(complete: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "WRITE_SECONDS", 0.3)

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        if complete:
            await respond(send, 200, b"x" * 2**26)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x" * 2**20, "more_body": True})

    async with serving(app, keep_alive_seconds=0.3) as server:
        client = await server.connect(limit=1000)
        await client.send(request())
        await server.until(lambda: not server.connections)
