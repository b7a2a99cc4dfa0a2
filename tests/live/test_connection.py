"""HTTP/1.1 on the wire: bytes in any portions, pipelined requests, and bytes that are not HTTP."""

import json
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.live.conftest import serving
from tests.paths import MODELS
from tests.waiting import wait_until

Open = Callable[[], socket.socket]

MASS = {"masses": [{"age": 50}]}


@pytest.fixture
def open_connection(server: str) -> Iterator[Open]:
    """Return a function that opens connections to the server."""
    address = urlsplit(server)
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        opened.append(socket.create_connection((address.hostname, address.port), timeout=30))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


def request(path: str, body: object = None, headers: str = "", method: str = "POST") -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    )
    return f"{head}{headers}\r\n".encode() + content


def answer(connection: socket.socket) -> tuple[int, str, bytes]:
    """Read the next response; return its status, head and body."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, f"the connection ended after {head!r}"
        head += byte
    length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return int(head.split()[1]), head.decode(), body


def is_closed(connection: socket.socket) -> bool:
    """Return whether the connection closes in order; a reset raises an error."""
    return connection.recv(1) == b""


def test_bytes_may_come_one_by_one(open_connection: Open) -> None:
    connection = open_connection()
    for byte in request("/v1/sentiment", {"reviews": ["fine"]}, "X-Request-ID: slow\r\n"):
        connection.sendall(bytes([byte]))
    status, head, _ = answer(connection)
    assert status == 200
    assert "x-request-id: slow" in head


def test_pipelined_requests_are_answered_in_order(open_connection: Open) -> None:
    connection = open_connection()
    seeds = range(40)
    connection.sendall(
        b"".join(request("/v1/fashion", {"seed": seed}, "Accept: application/json\r\n") for seed in seeds)
    )
    assert [json.loads(answer(connection)[2])["seed"] for _ in seeds] == list(seeds)


def test_a_slow_reader_gets_every_byte(open_connection: Open) -> None:
    connection = open_connection()
    order = request("/v1/fashion", {"count": 64, "seed": 1}, "Accept: application/json\r\n")
    connection.sendall(order * 60)
    time.sleep(1)
    assert len({answer(connection)[2] for _ in range(60)}) == 1


@pytest.mark.parametrize(
    ("garbage", "expected", "title"),
    [
        (b"nonsense\r\n\r\n", 400, "Bad Request"),
        (b"GET /\r\n\r\n", 400, "Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, "Bad Request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP Version Not Supported"),
        (b"BREW / HTTP/1.1\r\n\r\n", 501, "Not Implemented"),
        (b"GET /" + b"x" * 100_000, 414, "URI Too Long"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n", 417, "Expectation Failed"),
    ],
    ids=["words", "no version", "TLS", "HTTP/2", "method", "URI", "expectation"],
)
def test_an_invalid_request_gets_a_problem_and_the_connection_closes(
    open_connection: Open, garbage: bytes, expected: int, title: str
) -> None:
    connection = open_connection()
    connection.sendall(garbage)
    status, head, body = answer(connection)
    assert status == expected
    assert "application/problem+json" in head
    problem = json.loads(body)
    assert (problem["status"], problem["title"]) == (expected, title)
    assert f"x-request-id: {json.loads(body)['request_id']}" in head
    assert is_closed(connection)


def test_a_request_before_garbage_is_answered(open_connection: Open) -> None:
    connection = open_connection()
    connection.sendall(request("/v1/fashion", {"seed": 3}) + b"nonsense\r\n\r\n")
    assert [answer(connection)[0] for _ in range(2)] == [200, 400]
    assert is_closed(connection)


def test_a_body_with_broken_chunks_is_a_400(open_connection: Open) -> None:
    connection = open_connection()
    head = b"POST /v1/sentiment HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.sendall(head + b"5\r\nhello\r\n")
    connection.sendall(b"many\r\n")
    assert answer(connection)[0] == 400
    assert is_closed(connection)


@pytest.mark.parametrize("lines", [b"X-Long: " + b"x" * 70_000, b"X: y\r\n" * 12_000], ids=["one", "many"])
def test_an_endless_head_is_rejected(open_connection: Open, lines: bytes) -> None:
    connection = open_connection()
    connection.sendall(b"GET /livez HTTP/1.1\r\n" + lines)
    assert answer(connection)[0] == 431
    assert is_closed(connection)


@pytest.mark.parametrize(
    "rest", [b"0\r\n" + b"a: b\r\n" * 12_000, b"1;" + b"x" * 70_000], ids=["trailers", "extension"]
)
def test_endless_trailers_and_extensions_are_rejected(open_connection: Open, rest: bytes) -> None:
    connection = open_connection()
    connection.sendall(b"POST /v1/fashion HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.sendall(rest)
    assert answer(connection)[0] == 431
    assert is_closed(connection)


def test_a_trailer_is_not_a_header(open_connection: Open) -> None:
    connection = open_connection()
    head = b"POST /v1/fashion HTTP/1.1\r\nHost: x\r\nX-Request-ID: head\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.sendall(head + b"0\r\nX-Request-ID: trailer\r\n\r\n")
    status, text, _ = answer(connection)
    assert status == 200
    assert "x-request-id: head" in text


def test_upgrade_offers_are_declined_in_order(open_connection: Open) -> None:
    connection = open_connection()
    offer = "Connection: Upgrade\r\nUpgrade: h2c\r\n"
    connection.sendall(b"".join(request("/v1/fashion", {"seed": seed}, offer) for seed in range(300)))
    for seed in range(300):
        assert f"x-seed: {seed}\r\n" in answer(connection)[1]


def test_a_connection_is_kept_between_requests(open_connection: Open) -> None:
    connection = open_connection()
    for seed in range(3):
        connection.sendall(request("/v1/fashion", {"seed": seed}))
        assert f"x-seed: {seed}" in answer(connection)[1]


def test_a_connection_is_kept_after_a_long_body(open_connection: Open) -> None:
    connection = open_connection()
    for _ in range(2):
        connection.sendall(request("/v1/sentiment", {"reviews": ["long " * 4000] * 10}))
        assert answer(connection)[0] == 200


@pytest.mark.parametrize("last", [b"Connection: close\r\n", b""], ids=["close", "HTTP/1.0"])
def test_a_connection_closes_at_the_clients_request(open_connection: Open, last: bytes) -> None:
    connection = open_connection()
    version = b"1.1" if last else b"1.0"
    connection.sendall(b"GET /livez HTTP/" + version + b"\r\nHost: x\r\n" + last + b"\r\n")
    status, head, _ = answer(connection)
    assert status == 200
    assert "connection: close" in head
    assert is_closed(connection)


def test_a_client_may_wait_for_100_continue_before_it_sends_the_body(open_connection: Open) -> None:
    connection = open_connection()
    head, body = request("/v1/sentiment", {"reviews": ["fine"]}, "Expect: 100-continue\r\n").split(b"\r\n\r\n")
    connection.sendall(head + b"\r\n\r\n")
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(body)
    assert answer(connection)[0] == 200


def test_a_client_that_waits_for_100_continue_gets_a_413_for_a_long_body(open_connection: Open) -> None:
    connection = open_connection()
    head = b"POST /v1/sentiment HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    connection.sendall(head + b"Content-Length: 999999999\r\n\r\n")
    assert answer(connection)[0] == 413
    assert is_closed(connection)


def test_a_request_target_may_be_a_url_with_escapes(open_connection: Open) -> None:
    connection = open_connection()
    connection.sendall(request("http://example.org/v1/f%61shion?version=1", {"seed": 4}))
    assert "x-seed: 4" in answer(connection)[1]


@pytest.mark.parametrize("name", ["Host", "Authorization", "Content-Type", "X-Request-ID", "X-Request-Timeout"])
@pytest.mark.parametrize("path", ["/v1/fashion", "/v2/models/digits/infer"])
def test_a_single_value_header_must_not_repeat(open_connection: Open, name: str, path: str) -> None:
    connection = open_connection()
    connection.sendall(request(path, {}, f"{name}: 1\r\n{name}: 1\r\n"))
    status, _, body = answer(connection)
    assert status == 400
    assert ("error" in json.loads(body)) == path.startswith("/v2")
    assert is_closed(connection)


def test_an_escaped_slash_is_not_a_separator(open_connection: Open) -> None:
    connection = open_connection()
    for path in ("/v1%2Ffashion", "/v2/models/digits%2Fready", "/v2%2fmodels/digits"):
        connection.sendall(request(path, method="GET"))
        assert answer(connection)[0] == 404


def test_a_client_that_half_closes_gets_its_response(open_connection: Open) -> None:
    connection = open_connection()
    connection.sendall(request("/v1/fashion", {"seed": 5}))
    connection.shutdown(socket.SHUT_WR)
    assert "x-seed: 5" in answer(connection)[1]
    assert is_closed(connection)


def test_a_rejected_body_does_not_break_the_next_request(open_connection: Open) -> None:
    for size in (1_000, 4 * 2**20):
        connection = open_connection()
        connection.sendall(request("/nope", "x" * size) + request("/v1/fashion", {"seed": 6}))
        status, head, _ = answer(connection)
        assert status == 404
        if "connection: close" in head:
            assert is_closed(connection)
        else:
            assert "x-seed: 6" in answer(connection)[1]


@pytest.mark.parametrize(
    ("content_type", "name", "accepted"),
    [
        ("text/plain", "accept", "application/json, multipart/form-data, image/*"),
        ("application/json\r\nContent-Encoding: br", "accept-encoding", "identity"),
    ],
)
def test_a_415_lists_the_accepted_types(open_connection: Open, content_type: str, name: str, accepted: str) -> None:
    connection = open_connection()
    connection.sendall(
        f"POST /v1/digits HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    )
    status, head, _ = answer(connection)
    assert status == 415
    assert f"\r\n{name}: {accepted}\r\n" in head


def metric(client: httpx.Client, name: str, *labels: str) -> float:
    """Return the sum of the series with this name and all these labels."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name}{{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in labels))


def test_a_request_is_not_computed_if_its_client_hangs_up_while_it_waits(tmp_path: Path) -> None:
    # The batcher waits a second for more rows, far longer than the server needs to notice a closed connection. So the
    # order of events does not depend on the speed of the machine.
    shutil.copytree(MODELS / "mammogram", tmp_path / "models" / "mammogram")
    settings = {"models_dir": str(tmp_path / "models"), "max_wait_seconds": "1"}
    with serving(tmp_path / "log", **settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        address = urlsplit(url)
        for _ in range(10):
            with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
                connection.sendall(request("/v1/mammogram", MASS))
        wait_until(lambda: metric(client, "deepserve_requests_total", 'outcome="abandoned"') == 10)
        assert client.post("/v1/mammogram", json=MASS).status_code == 200
        wait_until(lambda: metric(client, "deepserve_requests_total", 'outcome="ok"', 'route="/v1/mammogram"') == 1)
        assert metric(client, "deepserve_run_rows_sum", 'model="mammogram"') == 1
