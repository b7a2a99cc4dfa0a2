"""Limits over all connections of the real server: total bytes of bodies, and open connections."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.live.conftest import serving

MIB = 2**20
IN_FLIGHT = 15 * MIB
CONNECTIONS = 24


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log: Path = tmp_path_factory.mktemp("server") / "log"
    limits = {"max_body_bytes_in_flight": str(IN_FLIGHT), "max_connections": str(CONNECTIONS)}
    with serving(log, **limits) as address:
        yield address


@pytest.fixture
def connect(url: str) -> Iterator[Callable[[], socket.socket]]:
    """Return a function that opens connections, which are closed after the test."""
    address = urlsplit(url)
    with ExitStack() as opened:
        yield lambda: opened.enter_context(socket.create_connection((address.hostname, address.port), timeout=20))


def test_bodies_over_the_total_limit_get_a_503_and_small_ones_are_served(
    url: str, connect: Callable[[], socket.socket]
) -> None:
    connections = [connect() for _ in range(10)]
    head = f"POST /v1/digits HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {4 * MIB}\r\n\r\n"
    for connection in connections:
        connection.sendall(head.encode() + b" " * (4 * MIB - 1))
    refused = []
    for connection in connections:
        connection.settimeout(0.5)
        try:
            refused.append(connection.recv(10_000))
        except TimeoutError:
            continue
    assert len(refused) == 7, "three of ten fit"
    for response in refused:
        assert response.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in response
    assert httpx.post(f"{url}/v1/mammogram", json={"masses": [{"age": 50}]}).status_code == 200


def test_a_connection_too_many_gets_a_503(connect: Callable[[], socket.socket]) -> None:
    connections = [connect() for _ in range(CONNECTIONS)]
    last = connect()
    last.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    response = b"".join(iter(lambda: last.recv(10_000), b""))
    assert response.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1\r\n" in response
    connections[0].sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connections[0].recv(100).startswith(b"HTTP/1.1 200 ")
