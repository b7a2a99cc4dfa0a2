"""Requests and responses on a connection: the behaviour that uvicorn's tests and HTTP/1.1 require."""

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from tests.transport.conftest import closed_in_order, echo, read_body, request, respond, serving

pytestmark = pytest.mark.anyio

CHUNKED = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def scope_echo(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
    """Send the scope back."""
    await respond(send, 200, repr(scope).encode())


def raises(*messages: dict[str, Any]) -> Any:
    """An application that sends these messages; `failed` has the exception that `send` raised."""

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        try:
            for message in messages:
                await send(message)
        except Exception as error:
            app.failed = error  # type: ignore[attr-defined]
            raise

    app.failed = None  # type: ignore[attr-defined]
    return app


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(content: bytes = b"", *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": content, "more_body": more}


async def test_a_request_is_answered() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        received = await client.ask(request("/a", b"hello"))
        assert (received.status, received.body, received.closes) == (200, b"/a hello", False)


async def test_the_scope_has_the_fields_of_asgi() -> None:
    found: Scope = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.update(scope)
        await echo(scope, receive, send)

    async with serving(app, root_path="/prefix", state={"a": 1}) as server:
        client = await server.connect()
        await client.ask(request("/one%20two?q=%20", b"", "X-Y: z", method="PUT"))
        assert found["server"] == ("127.0.0.1", server.port)
        assert found["client"] == client.writer.get_extra_info("sockname")
    assert found | {"server": None, "client": None} == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "PUT",
        "root_path": "/prefix",
        "path": "/prefix/one two",
        "raw_path": b"/one%20two",
        "query_string": b"q=%20",
        "headers": [(b"host", b"x"), (b"x-y", b"z")],
        "state": {"a": 1},
        "server": None,
        "client": None,
    }


async def test_each_request_has_its_own_copy_of_the_state() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"].setdefault("count", 0))
        scope["state"]["count"] += 1
        await echo(scope, receive, send)

    async with serving(app, state={}) as server:
        client = await server.connect()
        for _ in range(2):
            await client.ask(request())
    assert seen == [0, 0]


async def test_a_connection_is_kept_between_requests() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        for number in range(5):
            assert (await client.ask(request(f"/{number}"))).body == b"/%d " % number
        assert len(server.connections) == 1


async def test_bytes_may_come_one_by_one() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        for byte in request("/slow", b"hello"):
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.response()).body == b"/slow hello"


@pytest.mark.parametrize("ends", [b"\r\n", b"\r\n\r\n\r\n"])
async def test_empty_lines_before_a_request_are_ignored(ends: bytes) -> None:
    async with serving(echo) as server:
        client = await server.connect()
        for _ in range(2):
            assert (await client.ask(ends + request("/a"))).status == 200
        await client.send(ends[:1])
        await asyncio.sleep(0.01)
        await client.send(ends[1:])
        assert (await client.ask(request("/a"))).status == 200


async def test_pipelined_requests_are_answered_in_order() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.01 if scope["path"].endswith("0") else 0)
        await echo(scope, receive, send)

    async with serving(app) as server:
        client = await server.connect()
        await client.send(b"".join(request(f"/{number}", b"x" * number) for number in range(50)))
        for number in range(50):
            assert (await client.response()).body == b"/%d %b" % (number, b"x" * number)


async def test_pipelined_requests_are_processed_one_at_a_time() -> None:
    under_way: list[int] = [0, 0]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        under_way[0] += 1
        under_way[1] = max(under_way)
        await asyncio.sleep(0.002)
        under_way[0] -= 1
        await echo(scope, receive, send)

    async with serving(app) as server:
        client = await server.connect()
        await client.send(request() * 10)
        for _ in range(10):
            await client.response()
    assert under_way[1] == 1


async def test_a_long_body_is_read_at_the_speed_of_the_application() -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await echo(scope, receive, send)

    async with serving(app) as server:
        client = await server.connect()
        content = bytes(range(256)) * 2**15
        sending = asyncio.create_task(client.send(request("/", content)))
        await asyncio.sleep(0.1)
        assert server.options.body_bytes.used < 2**20
        go.set()
        await sending
        assert (await client.response()).body == b"/ " + content


async def test_pipelined_requests_are_held_up_to_a_limit() -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await echo(scope, receive, send)

    async with serving(app) as server:
        client = await server.connect()
        sending = asyncio.create_task(client.send(request("/", b"x" * 10_000) * 1000))
        await asyncio.sleep(0.1)
        [connection] = server.connections
        assert len(connection._reader.buffer) < 2**20
        go.set()
        for _ in range(1000):
            assert len((await client.response()).body) == 10_002
        await sending


async def test_a_slow_reader_gets_every_byte_and_slows_the_application() -> None:
    sent = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001
        await send(start(200, (b"content-length", b"%d" % (400 * 2**16))))
        for number in range(400):
            await send(body(bytes([number % 256]) * 2**16, more=number < 399))
            sent.append(number)

    async with serving(app) as server:
        client = await server.connect(limit=2**16)
        await client.send(request())
        await asyncio.sleep(0.2)
        assert len(sent) < 400
        received = await client.response()
        assert received.body == b"".join(bytes([number % 256]) * 2**16 for number in range(400))


async def test_a_response_of_unknown_length_is_chunked() -> None:
    app = raises(start(), body(b"hello ", more=True), body(b"", more=True), body(b"world"))
    async with serving(app) as server:
        client = await server.connect()
        for _ in range(2):
            received = await client.ask(request())
            assert (received.headers["transfer-encoding"], received.body) == ("chunked", b"hello world")


async def test_a_chunked_response_may_be_empty() -> None:
    async with serving(raises(start(), body())) as server:
        client = await server.connect()
        assert (await client.ask(request())).body == b""


async def test_a_response_of_unknown_length_to_http_1_0_ends_at_the_close() -> None:
    async with serving(raises(start(), body(b"hello ", more=True), body(b"world"))) as server:
        client = await server.connect()
        await client.send(request(version="1.0"))
        head, _, content = (await client.rest()).partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert content == b"hello world"


@pytest.mark.parametrize(
    "app", [raises(start(), body(b"hello")), raises(start(200, (b"content-length", b"5")), body(b"hello"))]
)
async def test_the_response_to_head_has_no_body(app: Any) -> None:
    async with serving(app) as server:
        client = await server.connect()
        for _ in range(2):
            await client.send(request(method="HEAD"))
            assert (await client.response(to_head=True)).status == 200


@pytest.mark.parametrize("status", [204, 304])
async def test_a_bodiless_status_has_no_body(status: int) -> None:
    async with serving(raises(start(status), body(b"lost"))) as server:
        client = await server.connect()
        for _ in range(2):
            received = await client.ask(request())
            assert received.status == status
            assert not {"content-length", "transfer-encoding"} & received.headers.keys()


async def test_an_unregistered_status_is_sent() -> None:
    async with serving(raises(start(299, (b"content-length", b"0")), body())) as server:
        client = await server.connect()
        assert (await client.ask(request())).status == 299


async def test_headers_may_be_an_iterator() -> None:
    message = {"type": "http.response.start", "status": 200, "headers": iter([(b"content-length", b"0")])}
    async with serving(raises(message, body())) as server:
        client = await server.connect()
        assert (await client.ask(request())).headers["content-length"] == "0"


async def test_each_response_has_the_headers_of_the_server() -> None:
    async with serving(echo) as server:
        server.state.default_headers = [(b"date", b"today")]
        client = await server.connect()
        assert (await client.ask(request())).headers["date"] == "today"
        assert (await client.ask(b"nonsense\r\n\r\n")).headers["date"] == "today"


@pytest.mark.parametrize("value", [b"a\r\nSet-Cookie: b", b"a\nb", b"a\rb", b"a\0b", b"\r\n\r\n<html>"])
@pytest.mark.parametrize("by_name", [False, True])
async def test_a_header_cannot_split_the_response(value: bytes, by_name: bool) -> None:
    header = (value, b"x") if by_name else (b"x", value)
    app = raises(start(200, header, (b"content-length", b"0")), body())
    async with serving(app) as server:
        client = await server.connect()
        assert (await client.ask(request())).status == 500
        assert isinstance(app.failed, ValueError)


@pytest.mark.parametrize("name", [b"a b", b"a:", b"(a)", b"", b"\xe4"])
async def test_an_invalid_header_name_is_rejected(name: bytes) -> None:
    async with serving(raises(start(200, (name, b"x")), body())) as server:
        client = await server.connect()
        assert (await client.ask(request())).status == 500


@pytest.mark.parametrize("value", [b"a b", b"a\tb", b"\xc2\xb5", b""])
async def test_a_header_value_may_be_any_text(value: bytes) -> None:
    async with serving(raises(start(200, (b"x", value), (b"content-length", b"0")), body())) as server:
        client = await server.connect()
        assert (await client.ask(request())).headers["x"] == value.decode()


@pytest.mark.parametrize(
    "messages",
    [
        (),
        (start(),),
        (body(b"hello"),),
        (start(), start()),
        (start(200, (b"content-length", b"2")), body(b"hello")),
        (start(200, (b"content-length", b"9")), body(b"hello")),
        (start(200, (b"content-length", b"many")), body(b"hello")),
    ],
    ids=["none", "head only", "no head", "two heads", "too long", "too short", "no length"],
)
async def test_an_application_without_a_response_results_in_a_500(messages: tuple[Any, ...]) -> None:
    async with serving(raises(*messages)) as server:
        client = await server.connect()
        received = await client.ask(request())
        assert (received.status, received.closes) == (500, True)
        assert await closed_in_order(client)


async def test_an_exception_of_the_application_results_in_a_500() -> None:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ValueError

    async with serving(app) as server:
        client = await server.connect()
        assert (await client.ask(request())).status == 500
        assert [refusal.status for refusal in server.refusals] == [500]


@pytest.mark.parametrize(
    "messages",
    [
        (start(200, (b"content-length", b"9")), body(b"hello", more=True)),
        (start(200, (b"content-length", b"9")), body(b"hello", more=True), body(b"")),
        (start(200, (b"content-length", b"9")), body(b"hello", more=True), body(b"world")),
        (start(), body(b"hello", more=True)),
        (start(), body(b"hello", more=True), start()),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_an_incomplete_response_aborts_the_connection(messages: tuple[Any, ...], version: str) -> None:
    async with serving(raises(*messages)) as server:
        client = await server.connect()
        await client.send(request(version=version))
        received = await client.rest()
        assert received.endswith(b"hello\r\n" if b"chunked" in received else b"hello")
        assert not server.refusals
        await server.until(lambda: not server.connections)


async def test_sending_after_the_response_is_an_error() -> None:
    app = raises(start(200, (b"content-length", b"0")), body(), body())
    async with serving(app) as server:
        client = await server.connect()
        for _ in range(2):
            assert (await client.ask(request())).status == 200
        assert isinstance(app.failed, RuntimeError)


async def test_the_return_value_of_the_application_is_ignored() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> Any:
        await echo(scope, receive, send)
        return 123

    async with serving(app) as server:
        client = await server.connect()
        assert (await client.ask(request())).status == 200


async def test_receive_returns_a_disconnect_after_the_response() -> None:
    messages = []

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await respond(send)
        messages.append(await receive())

    async with serving(app) as server:
        client = await server.connect()
        await client.ask(request())
        await server.until(lambda: bool(messages))
    assert messages == [{"type": "http.disconnect"}]


@pytest.mark.parametrize("path", ["while it waits", "while its body arrives"])
async def test_a_client_that_hangs_up_cancels_its_request(path: str) -> None:
    cancelled = asyncio.Event()

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        try:
            await read_body(receive)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(app) as server:
        client = await server.connect()
        data = request("/", b"x" * 1000)
        await client.send(data if path == "while it waits" else data[:-1])
        await server.until(lambda: bool(server.state.tasks))
        client.writer.close()
        async with asyncio.timeout(5):
            await cancelled.wait()


async def test_a_client_that_resets_the_connection_cancels_its_request() -> None:
    cancelled = asyncio.Event()

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    async with serving(app) as server:
        client = await server.connect()
        await client.send(request())
        await server.until(lambda: bool(server.state.tasks))
        client.writer.transport.abort()
        async with asyncio.timeout(5):
            await cancelled.wait()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("seconds", [0.0, 0.35])
async def test_a_client_that_half_closes_gets_its_responses(count: int, seconds: float) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(seconds)
        await echo(scope, receive, send)

    async with serving(app) as server:
        client = await server.connect()
        await client.send(request("/a", b"hello") * count)
        client.writer.write_eof()
        received = await client.rest()
        assert received.count(b"HTTP/1.1 200 OK\r\n") == count
        assert received.count(b"/a hello") == count
        assert (b"HTTP/1.1 100 Continue\r\n\r\n" in received) == (seconds > 0)


async def test_http_1_0_never_gets_an_interim_response() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.35)
        await echo(scope, receive, send)

    async with serving(app) as server:
        client = await server.connect()
        await client.send(request(version="1.0"))
        client.writer.write_eof()
        assert (await client.rest()).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("data", [request()[:-2], request("/", b"hello")[:-1], CHUNKED + b"5\r\nhel"])
async def test_an_incomplete_request_gets_no_response(data: bytes) -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(data)
        client.writer.write_eof()
        assert await closed_in_order(client)


@pytest.mark.parametrize("data", [request("/", b"", "Connection: close"), request(version="1.0")])
async def test_the_last_response_has_connection_close(data: bytes) -> None:
    async with serving(echo) as server:
        client = await server.connect()
        received = await client.ask(data)
        assert (received.status, received.closes) == (200, True)
        assert await closed_in_order(client)


async def test_no_request_is_processed_after_the_last_response() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(request("/a") + request("/b", b"", "Connection: close") + request("/c"))
        assert [(await client.response()).body for _ in range(2)] == [b"/a ", b"/b "]
        assert await closed_in_order(client)


async def test_a_chunked_body_is_joined_and_another_request_may_follow() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(CHUNKED + b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nTrailer: x\r\n\r\n" + request("/next"))
        assert [(await client.response()).body for _ in range(2)] == [b"/c hello!", b"/next "]


async def test_a_trailer_is_not_a_header() -> None:
    async with serving(scope_echo) as server:
        client = await server.connect()
        assert b"evil" not in (await client.ask(CHUNKED + b"0\r\nX-Request-ID: evil\r\n\r\n")).body


async def test_invalid_chunks_get_a_400() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(CHUNKED + b"5\r\nhello\r\n")
        await asyncio.sleep(0.01)
        received = await client.ask(b"many\r\n")
        assert (received.status, received.closes) == (400, True)
        assert await closed_in_order(client)


async def test_continue_is_sent_when_the_application_reads_the_body() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        for _ in range(2):
            head, _, content = request("/a", b"hello", "Expect: 100-continue").partition(b"\r\n\r\n")
            await client.send(head + b"\r\n\r\n")
            assert (await client.response()).status == 100
            await client.send(content)
            assert (await client.response()).body == b"/a hello"


async def test_continue_is_not_sent_to_a_client_that_does_not_wait() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        assert (await client.ask(request("/a", b"hello", "Expect: 100-continue"))).status == 200


async def test_an_expectation_from_http_1_0_is_ignored() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(request("/a", b"hello", "Expect: 100-continue", version="1.0")[:-5])
        await asyncio.sleep(0.05)
        await client.send(b"hello")
        assert (await client.response()).status == 200


async def test_a_rejected_client_that_waits_need_not_send_its_body() -> None:
    async with serving(scope_echo) as server:
        client = await server.connect()
        received = await client.ask(request("/a", b"hello", "Expect: 100-continue")[:-5])
        assert (received.status, received.closes) == (200, True)
        assert await closed_in_order(client)


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0"])
async def test_an_upgrade_offer_is_declined(upgrade: str) -> None:
    async with serving(echo) as server:
        client = await server.connect()
        offer = request("/a", b"hello", "Connection: Upgrade", f"Upgrade: {upgrade}")
        await client.send(offer * 3)
        assert [(await client.response()).body for _ in range(3)] == [b"/a hello"] * 3
        offer = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        assert (await client.ask(offer + b"2\r\nhi\r\n0\r\n\r\n")).body == b"/c hi"


@pytest.mark.parametrize(
    ("garbage", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"nonsense\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\n", 505),
        (b"BREW / HTTP/1.1\r\n", 501),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n\r\n", 400),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("portions", [1, 1000])
async def test_garbage_is_rejected_after_the_requests_before_it(
    garbage: bytes, status: int, before: int, portions: int
) -> None:
    async with serving(echo) as server:
        client = await server.connect()
        data = request("/a", b"x") * before + garbage
        step = -(-len(data) // portions)
        for at in range(0, len(data), step):
            client.writer.write(data[at : at + step])
            await asyncio.sleep(0)
        assert [(await client.response()).status for _ in range(before)] == [200] * before
        received = await client.response()
        assert (received.status, received.closes, received.headers["x-refused"]) == (status, True, "yes")
        assert await closed_in_order(client)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /" + b"x" * 100_000, 414),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 70_000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 12_000, 431),
        (b"GET /" + b"x" * 60_000 + b" HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 60_000 + b"\r\n\r\n", 200),
    ],
    ids=["URI", "URI without end", "header", "header without end", "headers without end", "just short enough"],
)
@pytest.mark.parametrize("portion", [1000, 16_384, 10**6])
async def test_the_limits_of_a_head_do_not_depend_on_its_portions(head: bytes, status: int, portion: int) -> None:
    async with serving(scope_echo) as server:
        client = await server.connect()
        for at in range(0, len(head), portion):
            client.writer.write(head[at : at + portion])
            await asyncio.sleep(0.0001)
        assert (await client.response()).status == status


async def test_a_previous_body_does_not_count_against_the_head_limits() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(request("/a", b"x" * 200_000) + request("/b")[:-2])
        assert (await client.response()).status == 200
        assert (await client.ask(b"\r\n")).body == b"/b "


async def test_an_error_response_to_head_has_no_body() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        await client.send(request(method="HEAD", host=None))
        assert (await client.rest()).endswith(b"\r\n\r\n")


async def test_a_draining_server_closes_each_connection_after_a_response() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        assert not (await client.ask(request())).closes
        server.drains = True
        assert (await client.ask(request())).closes
        assert await closed_in_order(client)


async def test_a_shutdown_closes_idle_connections() -> None:
    async with serving(echo) as server:
        clients = [await server.connect() for _ in range(2)]
        await clients[0].ask(request())
        for connection in server.connections:
            connection.shutdown()
        assert [await closed_in_order(client) for client in clients] == [True, True]


async def test_a_shutdown_waits_for_the_present_response() -> None:
    go = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go.wait()
        await echo(scope, receive, send)

    async with serving(app) as server:
        client = await server.connect()
        await client.send(request("/a") + request("/b"))
        await server.until(lambda: bool(server.state.tasks))
        server.connections[0].shutdown()
        go.set()
        received = await client.response()
        assert (received.body, received.closes) == (b"/a ", True)
        assert await closed_in_order(client)


async def test_responses_are_counted() -> None:
    async with serving(echo) as server:
        client = await server.connect()
        for _ in range(3):
            await client.ask(request())
        assert server.state.total_requests == 3
