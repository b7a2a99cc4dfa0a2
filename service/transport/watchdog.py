"""How long a client may keep a connection waiting, and the timer that closes the connection after that."""

import asyncio
import math
from typing import Protocol

from service.transport.options import Options
from service.transport.states import CLOSED, IDLE, RECEIVING, RESPONDING, State

HEAD_SECONDS = 20.0
"""From the first byte of a head to its last."""
DRAIN_IDLE_SECONDS = 2.5
"""Wait for the next request while the server drains. It is also the longest interval between two checks."""
WRITE_SECONDS = 60.0
"""Wait for the client to read a response."""
QUIET_SECONDS = 5.0
"""DISCARDING and LINGERING: wait for the next byte."""
LINGER_SECONDS = 30.0
"""DISCARDING and LINGERING: total time."""


class Watched(Protocol):
    """The facts of a connection that decide how long it may wait."""

    state: State
    in_head: bool
    """IDLE: whether the first bytes of a head have arrived."""
    write_blocked: asyncio.Future[None] | None
    """None unless the client must read before more can be written."""

    def unsent_bytes(self) -> int:
        """Return the number of bytes that have been written and not sent."""

    def abort(self) -> None:
        """Close the connection at once."""


class Watchdog:
    """Aborts one connection when its client keeps it waiting too long. It has one timer."""

    __slots__ = ("_connection", "_linger_until", "_loop", "_options", "_since", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Watched, options: Options) -> None:
        self._loop = loop
        self._connection = connection
        self._options = options
        self._since = loop.time()
        """Start of the present wait, by the clock of the event loop."""
        self._linger_until = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def restart(self) -> None:
        """Start a new wait. A running timer notices it when it fires, so this costs no new timer."""
        self._since = self._loop.time()

    def restart_lingering(self) -> None:
        """Start the wait of DISCARDING or LINGERING, which `LINGER_SECONDS` limit in total."""
        self._since = self._loop.time()
        self._linger_until = self._since + LINGER_SECONDS
        self.check()

    def check(self) -> None:
        """Abort the connection if its wait is over; otherwise check again when it will be."""
        self.cancel()
        delay = self.deadline() - self._loop.time()
        if delay > 0:
            self._timer = self._loop.call_later(min(delay, self._idle_seconds(), DRAIN_IDLE_SECONDS), self.check)
        else:
            self._connection.abort()

    def cancel(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def deadline(self) -> float:
        """Return when the present wait is over, by the clock of the event loop; infinity if it may last for ever."""
        connection, state = self._connection, self._connection.state
        if connection.write_blocked is not None or state is CLOSED:
            return self._since + WRITE_SECONDS
        if state is RECEIVING or state is RESPONDING:
            return math.inf
        if connection.unsent_bytes():
            return self._since + WRITE_SECONDS
        if state is IDLE:
            return self._since + (HEAD_SECONDS if connection.in_head else self._idle_seconds())
        return min(self._since + QUIET_SECONDS, self._linger_until)

    def _idle_seconds(self) -> float:
        seconds = self._options.keep_alive_seconds
        return min(seconds, DRAIN_IDLE_SECONDS) if self._options.is_draining() else seconds
