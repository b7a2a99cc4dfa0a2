"""A server whose log is not read continues to answer, and later logs the number of dropped lines."""

import json
import os
import re
import socket
import threading
import time
from pathlib import Path

import httpx

from service.observability.logging import MAX_LINES
from tests.live.conftest import serving

AT_ONCE = 100


def ask(url: str, times: int) -> None:
    """Send pipelined requests, and wait for all responses."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 80), timeout=30) as connection:
        for _ in range(times // AT_ONCE):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * AT_ONCE)
            answers = b""
            while answers.count(b"\r\n\r\nok\n") < AT_ONCE:
                answers += connection.recv(65536)
            assert answers.count(b"HTTP/1.1 200 ") == AT_ONCE


def test_an_unread_log_does_not_block_the_server(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    pipe = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    said = bytearray()

    def read() -> None:
        os.set_blocking(pipe, True)
        while more := os.read(pipe, 65536):
            said.extend(more)

    reader = threading.Thread(target=read)
    with serving(tmp_path / "log", log_requests_fraction="1", log_format="json") as url:
        ask(url, MAX_LINES + 3000)
        found = re.search(r"^deepserve_log_lines_dropped_total (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
        assert found is not None
        assert float(found[1]) > 1000
        reader.start()
        end = time.monotonic() + 30
        while b"lines of the log were dropped" not in said and time.monotonic() < end:
            time.sleep(0.1)
            ask(url, AT_ONCE)
        httpx.get(f"{url}/livez", headers={"X-Request-ID": "the last"})
    reader.join()
    os.close(pipe)
    lines = [json.loads(line) for line in said.splitlines()]
    assert sum(line.get("route") == "/livez" for line in lines) > MAX_LINES
    assert [line for line in lines if "lines of the log were dropped" in line["message"]]
    assert [line for line in lines if line.get("request_id") == "the last"]
