"""An open loop: each request has its moment, fixed beforehand, whatever becomes of those before it.

Tools whose connections wait for an answer before they ask again (wrk, Locust's users) ask less the slower they are
answered, and never see what a waiting crowd sees. Here what counts is the time from the moment at which a request was
due.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]

TICK = 0.001
"""Longest pause between two looks at what is due; the event loop rounds it to milliseconds."""
LAST_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class End:
    """How a request ended: when it was sent and when it ended, by `time.perf_counter`, and the answer."""

    sent: float
    ended: float
    status: int
    """0 if the connection broke."""
    head: bytes
    body: bytes

    @property
    def seconds(self) -> float:
        """From sending to the last byte of the answer."""
        return self.ended - self.sent

    @property
    def request_id(self) -> str | None:
        """What the answer says it is the answer to."""
        _, found, rest = self.head.lower().partition(b"\r\nx-request-id:")
        return rest.partition(b"\r\n")[0].strip().decode() if found else None


class Connection(asyncio.Protocol):
    """A connection with one request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._end: asyncio.Future[End] | None = None

    @classmethod
    async def to(cls, url: str) -> "Connection":
        """A new one to the host and port of `url`."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        _, connection = await asyncio.get_running_loop().create_connection(cls, parts.hostname, parts.port)
        return connection

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
            self._finish(int(head[9:12]), head, body)

    def connection_lost(self, _error: Exception | None) -> None:
        self._finish(0)

    def _finish(self, status: int, head: bytes = b"", body: bytes = b"") -> None:
        if self._end is not None and not self._end.done():
            self._end.set_result(End(self._sent, time.perf_counter(), status, head, body))


@dataclass(slots=True)
class Due:
    """A request, and what became of it."""

    at: float
    """Its moment, by `time.perf_counter`."""
    noticed: float = math.nan
    """When the generator got to it: what lies between is the generator's own fault."""
    sent: bool = False
    """Whether a connection was free for it."""
    end: End | None = None
    """None if it was not sent, or no answer came."""

    @property
    def seconds(self) -> float:
        """From its moment to its answer; infinite without one."""
        return math.inf if self.end is None or not self.end.status else self.end.ended - self.at


def evenly(rate: float, seconds: float) -> Seconds:
    """Moments for `rate` requests a second, one as long after the other."""
    return np.arange(int(rate * seconds)) / rate


def poisson(rate: float, seconds: float, generator: np.random.Generator) -> Seconds:
    """Moments as people choose them who do not know of each other: `rate` a second on average."""
    return np.sort(generator.uniform(0, seconds, generator.poisson(rate * seconds)))


async def offer(
    url: str,
    requests: Iterator[bytes],
    moments: Seconds,
    connections: int,
    *,
    patient: bool = True,
    last_answer_seconds: float = LAST_ANSWER_SECONDS,
) -> list[Due]:
    """Sends a request at each of the moments, over at most so many connections.

    Args:
        url: host and port.
        requests: as they go over the wire; taken in turn.
        moments: seconds from the start, ascending.
        connections: at most as many requests wait for their answers.
        patient: whether a request that finds none free waits for one; if not, it is never sent.
        last_answer_seconds: how long after the last moment answers are waited for.

    Returns:
        One for each moment.
    """
    opened = [await Connection.to(url) for _ in range(connections)]
    idle, waiting = deque(opened), deque[Due]()
    under_way: set[asyncio.Future[End]] = set()
    silence = asyncio.Event()

    def send(due: Due, connection: Connection) -> None:
        due.sent = True
        end = connection.ask(next(requests))
        under_way.add(end)
        end.add_done_callback(partial(ended, due, connection))

    def ended(due: Due, connection: Connection, end: asyncio.Future[End]) -> None:
        under_way.discard(end)
        due.end = end.result()
        if due.end.status and waiting:
            send(waiting.popleft(), connection)
        elif due.end.status:
            idle.append(connection)
        if not under_way:
            silence.set()

    started = time.perf_counter()
    everything = [Due(started + moment) for moment in moments]
    position = 0
    while position < len(everything):
        now = time.perf_counter()
        while position < len(everything) and everything[position].at <= now:
            due = everything[position]
            due.noticed = now
            if idle:
                send(due, idle.popleft())
            elif patient:
                waiting.append(due)
            position += 1
        if position < len(everything):
            await asyncio.sleep(min(TICK, max(0.0, everything[position].at - time.perf_counter())))
    if under_way:
        silence.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(silence.wait(), last_answer_seconds)
    for connection in opened:
        connection.close()
    return everything
