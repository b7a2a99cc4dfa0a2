"""Clients get responses that are sent before the body has arrived, and their connections close in order."""

import asyncio
import ssl
import subprocess
from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest
import requests
from starlette.types import Receive, Scope, Send

from service.transport import connection, watchdog
from service.transport.exchange import MAX_DISCARDED_BYTES
from tests.transport.conftest import closed_in_order, reject, request, respond, serving

pytestmark = pytest.mark.anyio

MIB = 2**20


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return a self-signed certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return str(certificate), str(key)


@pytest.fixture
def tls(certificate: tuple[str, str]) -> ssl.SSLContext:
    """Return the TLS context of the server."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def trusting(certificate: tuple[str, str]) -> ssl.SSLContext:
    """Return the TLS context of the client."""
    return ssl.create_default_context(cafile=certificate[0])


@pytest.mark.parametrize("rest", [1, 1000, MAX_DISCARDED_BYTES])
async def test_a_connection_is_reused_after_a_short_unread_body(rest: int) -> None:
    async with serving(reject) as server:
        client = await server.connect()
        for _ in range(3):
            data = request("/nope", b"x" * 100_000)
            received = await client.ask(data[:-rest])
            assert (received.status, received.closes) == (404, False)
            assert (await client.ask(data[-rest:] + request("/echo", b"hello"))).body == b"/echo hello"


@pytest.mark.parametrize("size", [0, 1000, 60_000])
async def test_a_short_body_and_the_next_request_in_one_packet_are_both_answered(size: int) -> None:
    async with serving(reject) as server:
        client = await server.connect()
        await client.send(request("/nope", b"x" * size) + request("/echo", b"hello"))
        assert [(await client.response()).status for _ in range(2)] == [404, 200]


@pytest.mark.parametrize("size", [70_000, MIB, 4 * MIB])
@pytest.mark.parametrize(
    "headers", [(), ("Connection: close",), ("Expect: 100-continue",)], ids=["kept", "close", "expect"]
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("paces", [False, True], ids=["at once", "paced"])
async def test_a_long_unread_body_closes_the_connection_in_order(
    size: int, headers: tuple[str, ...], version: str, paces: bool
) -> None:
    async with serving(reject) as server:
        client = await server.connect()
        data = request("/nope", b"x" * size, *headers, version=version)
        await client.send(data[:1000])
        await client.response()
        for at in range(1000, len(data), MIB // 4):
            await client.send(data[at : at + MIB // 4])
            await asyncio.sleep(0.01 if paces else 0)
        await client.send(request("/echo", b"lost"))
        assert await closed_in_order(client)
        client.writer.close()
        await server.until(lambda: not server.connections)


@pytest.mark.parametrize("size", [1000, 100_000, MIB, 4 * MIB])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_client_that_sends_everything_before_reading_gets_the_response(size: int, version: str) -> None:
    async with serving(reject) as server:
        client = await server.connect()
        await client.send(request("/nope", b"x" * size, version=version) + request("/echo", b"hello"))
        received = await client.response()
        assert received.status == 404
        if received.closes:
            assert await closed_in_order(client)
        else:
            assert (await client.response()).body == b"/echo hello"


async def test_a_body_of_unknown_length_closes_the_connection_in_order() -> None:
    async with serving(reject) as server:
        client = await server.connect()
        await client.send(b"POST /nope HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        received = await client.response()
        assert (received.status, received.closes) == (404, True)
        await client.send(b"10000\r\n" + b"x" * 2**16 + b"\r\n0\r\n\r\n")
        assert await closed_in_order(client)


async def test_a_body_in_chunks_that_is_complete_keeps_the_connection() -> None:
    async with serving(reject) as server:
        client = await server.connect()
        chunked = b"POST /nope HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        for _ in range(3):
            received = await client.ask(chunked)
            assert (received.status, received.closes) == (404, False)


async def test_a_rejected_head_with_a_long_body_closes_the_connection_in_order() -> None:
    async with serving(reject) as server:
        client = await server.connect()
        await client.send(request("/nope", b"x" * 4 * MIB, host=None))
        assert (await client.response()).status == 400
        assert await closed_in_order(client)


async def test_a_response_during_the_body_closes_the_connection_in_order() -> None:
    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await respond(send, 413)

    async with serving(app) as server:
        client = await server.connect()
        await client.send(request("/", b"x" * 4 * MIB))
        received = await client.response()
        assert (received.status, received.closes) == (413, True)
        assert await closed_in_order(client)


async def test_the_response_is_not_delayed_until_the_body_has_arrived() -> None:
    async with serving(reject) as server:
        client = await server.connect()
        assert (await client.ask(request("/nope", b"x" * MIB)[:200])).status == 404


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("size", [1000, 100_000, MIB, 4 * MIB])
async def test_over_tls_the_client_gets_the_response_and_an_orderly_close(
    size: int, version: str, tls: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    async with serving(reject, tls=tls) as server:
        client = await server.connect(ssl=trusting)
        await client.send(request("/nope", b"x" * size, version=version))
        assert (await client.response()).status == 404
        client.writer.close()
        await client.writer.wait_closed()
        await server.until(lambda: not server.connections)


async def test_over_tls_the_server_closes_a_connection_that_the_client_leaves_open(
    tls: ssl.SSLContext, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "QUIET_SECONDS", 0.2)
    async with serving(reject, tls=tls) as server:
        client = await server.connect(ssl=trusting)
        await client.send(request("/nope", b"x" * MIB))
        assert (await client.response()).status == 404
        assert await closed_in_order(client)
        client = await server.connect(ssl=trusting)
        await client.ask(request("/echo", b"", "Connection: close"))
        assert await closed_in_order(client)


async def test_over_tls_a_connection_is_kept(tls: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    async with serving(reject, tls=tls) as server:
        client = await server.connect(ssl=trusting)
        for _ in range(3):
            assert (await client.ask(request("/echo", b"hello"))).body == b"/echo hello"
            assert (await client.ask(request("/nope", b"x" * 1000))).status == 404


def ask_requests(url: str, verify: str | bool) -> list[int]:
    with requests.Session() as session:
        session.verify = verify
        session.trust_env = False
        return [
            session.post(url + path, data=b"x" * MIB, timeout=20).status_code
            for path in ("/nope", "/echo", "/nope", "/nope", "/echo")
        ]


def ask_httpx(url: str, verify: str | bool) -> list[int]:
    context = ssl.create_default_context(cafile=verify) if isinstance(verify, str) else True
    with httpx.Client(verify=context, timeout=20) as client:
        return [
            client.post(url + path, content=b"x" * MIB).status_code
            for path in ("/nope", "/echo", "/nope", "/nope", "/echo")
        ]


@pytest.mark.parametrize("ask", [ask_requests, ask_httpx])
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_sessions_of_requests_and_httpx_get_every_response(
    ask: Callable[[str, str | bool], list[int]], secure: bool, tls: ssl.SSLContext, certificate: tuple[str, str]
) -> None:
    async with serving(reject, tls=tls if secure else None) as server:
        url = f"{'https' if secure else 'http'}://127.0.0.1:{server.port}"
        statuses = await asyncio.to_thread(ask, url, certificate[0] if secure else True)
        assert statuses == [404, 200, 404, 404, 200]


async def test_a_client_that_sends_without_end_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_BYTES", MIB)
    async with serving(reject) as server:
        client = await server.connect()
        await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n")
        with pytest.raises(ConnectionError):
            await client.send(b"x" * 64 * MIB)
        await server.until(lambda: not server.connections)


@pytest.mark.parametrize("limit", ["QUIET_SECONDS", "LINGER_SECONDS"])
@pytest.mark.parametrize("length", [1000, 10**9], ids=["DISCARDING", "LINGERING"])
async def test_a_client_that_never_completes_its_body_is_disconnected(
    limit: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, limit, 0.3)
    async with serving(reject) as server:
        client = await server.connect()
        await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length)
        started = asyncio.get_running_loop().time()
        while server.connections:
            await asyncio.sleep(0.02 if limit == "LINGER_SECONDS" else 0.6)
            with suppress(ConnectionError, RuntimeError):
                await client.send(b"x")
        assert 0.25 < asyncio.get_running_loop().time() - started < 2


async def test_a_client_that_sends_slowly_is_not_disconnected_as_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "QUIET_SECONDS", 0.2)
    async with serving(reject) as server:
        client = await server.connect()
        await client.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            await client.send(b"x")
            await asyncio.sleep(0.04)
        assert (await client.ask(request("/echo", b"hello"))).body == b"/echo hello"


async def test_a_thousand_early_responses_leak_nothing() -> None:
    async with serving(reject) as server:

        async def ask() -> None:
            for _ in range(50):
                client = await server.connect()
                await client.send(request("/nope", b"x" * 100_000)[:2000])
                await client.response()
                client.writer.close()
                server.clients.remove(client)

        await asyncio.gather(*(ask() for _ in range(20)))
        await server.until(lambda: not server.connections and not server.state.tasks)
        assert server.options.body_bytes.used == server.options.connections.used == 0
