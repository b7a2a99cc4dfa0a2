"""More requests than a server can answer: sent at a fixed rate, whatever becomes of those before them.

wrk cannot do this: each of its connections waits for an answer before it asks again. As a program,
`python -m load_tests.overload URL BODIES RATE CONNECTIONS SECONDS` prints an `Overload` as JSON.
"""

import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

TICK = 0.002
PROBE_EVERY = 0.05
LAST_ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Overload:
    """What came of it."""

    offered_per_second: float
    """Requests that were sent, or would have been had a connection been free."""
    answered_per_second: float
    """With status 200."""
    refused_share: float
    """Of the requests sent, those that got 503."""
    refused_p99_ms: float | None
    """How long they took to be refused; None if none was."""
    failed: int
    """Requests that got another status or no answer."""
    unsent_share: float
    """Of the requests offered, those that found every connection waiting."""
    probes: int
    """Requests to /livez meanwhile, with `PROBE_EVERY` seconds between them."""
    probes_answered: int
    probe_slowest_ms: float


@dataclass(frozen=True)
class End:
    """How a request ended: its status, 0 if the connection broke, and the seconds it took."""

    status: int
    seconds: float


class Connection(asyncio.Protocol):
    """A connection with one request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._end: asyncio.Future[End] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's are no subclass of asyncio's

    def ask(self, request: bytes) -> asyncio.Future[End]:
        """Sends the request."""
        self._sent = time.perf_counter()
        self._end = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._end

    def close(self) -> None:
        """Ends the connection."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        if ended and len(body) >= int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            self._received = b""
            self._finish(int(head[9:12]))

    def connection_lost(self, _error: Exception | None) -> None:
        self._finish(0)

    def _finish(self, status: int) -> None:
        if self._end is not None and not self._end.done():
            self._end.set_result(End(status, time.perf_counter() - self._sent))


async def overload(url: str, bodies: list[bytes], rate: float, connections: int, seconds: float) -> Overload:
    """Offers `rate` requests a second for that many `seconds`.

    Args:
        url: where they are posted.
        bodies: JSON, sent in turn.
        rate: requests a second.
        connections: at most as many wait for their answers.
        seconds: how long.
    """

    def free(connection: Connection, end: asyncio.Future[End]) -> None:
        if end.result().status:
            idle.append(connection)

    opened = [await _connect(url) for _ in range(connections)]
    idle = deque(opened)
    requests = cycle([_request("POST", urlsplit(url).path, body) for body in bodies])
    probing = asyncio.create_task(_probe(url, seconds))
    asked: list[asyncio.Future[End]] = []
    offered = 0
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        for _ in range(int(elapsed * rate) - offered):
            offered += 1
            if idle:
                connection = idle.popleft()
                asked.append(connection.ask(next(requests)))
                asked[-1].add_done_callback(partial(free, connection))
        await asyncio.sleep(TICK)
    answered = sum(end.done() and end.result().status == 200 for end in asked)
    done, late = await asyncio.wait(asked, timeout=LAST_ANSWER_SECONDS)
    ends = [end.result() for end in done]
    refused = [end.seconds for end in ends if end.status == 503]
    probes = await probing
    for connection in opened:
        connection.close()
    return Overload(
        offered_per_second=offered / elapsed,
        answered_per_second=answered / elapsed,
        refused_share=len(refused) / len(asked),
        refused_p99_ms=float(np.percentile(refused, 99)) * 1e3 if refused else None,
        failed=len(late) + sum(end.status not in (200, 503) for end in ends),
        unsent_share=1 - len(asked) / offered,
        probes=len(probes),
        probes_answered=sum(end.status == 200 for end in probes),
        probe_slowest_ms=max(end.seconds for end in probes) * 1e3,
    )


async def _probe(url: str, seconds: float) -> list[End]:
    """Asks /livez again and again, on a connection of its own."""
    connection = await _connect(url)
    probes = []
    finish = time.perf_counter() + seconds
    while time.perf_counter() < finish:
        probes.append(await connection.ask(_request("GET", "/livez", b"")))
        await asyncio.sleep(PROBE_EVERY)
    connection.close()
    return probes


async def _connect(url: str) -> Connection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    _, connection = await asyncio.get_running_loop().create_connection(Connection, parts.hostname, parts.port)
    return connection


def _request(method: str, path: str, body: bytes) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


if __name__ == "__main__":
    target, file, per_second, width, duration = sys.argv[1:]
    lines = Path(file).read_bytes().splitlines()
    print(json.dumps(asdict(uvloop.run(overload(target, lines, float(per_second), int(width), float(duration))))))
