"""The limits on how long a client may keep a connection waiting, with a clock that the test sets."""

import asyncio
import math
from collections.abc import Callable
from typing import Any, cast

import pytest

from service.transport.options import Budget, Options
from service.transport.states import State
from service.transport.watchdog import (
    DRAIN_IDLE_SECONDS,
    HEAD_SECONDS,
    LINGER_SECONDS,
    QUIET_SECONDS,
    WRITE_SECONDS,
    Watchdog,
)

KEEP_ALIVE_SECONDS = 75.0


class Timer:
    """A call that the loop has scheduled."""

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when, self.callback, self.cancelled = when, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """The clock and the timers of an event loop."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        self.timers.append(Timer(self.now + delay, callback))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        """Run the timers of that time, in order."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if not timer.cancelled and timer.when <= end]:
            timer = min(due, key=lambda each: each.when)
            self.timers.remove(timer)
            self.now = timer.when
            timer.callback()
        self.now = end


class Connection:
    """A connection as the watchdog sees it."""

    def __init__(self) -> None:
        self.state = State.IDLE
        self.in_head = False
        self.write_blocked: asyncio.Future[None] | None = None
        self.unsent = 0
        self.aborted = False

    def unsent_bytes(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = True


class Watched:
    """A watchdog, its connection and its clock."""

    def __init__(self) -> None:
        self.loop, self.connection, self.draining = Loop(), Connection(), False
        unused: Any = None
        options = Options(
            refuse=unused,
            overloaded=unused,
            is_draining=lambda: self.draining,
            keep_alive_seconds=KEEP_ALIVE_SECONDS,
            connections=Budget(1),
            body_bytes=Budget(1),
        )
        self.watchdog = Watchdog(cast(asyncio.AbstractEventLoop, self.loop), self.connection, options)
        self.watchdog.check()

    def aborts_after(self, seconds: float) -> bool:
        """Whether the connection is aborted at that time from now and not before."""
        self.loop.advance(seconds - 0.01)
        before = self.connection.aborted
        self.loop.advance(0.02)
        return self.connection.aborted and not before


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.mark.parametrize(
    ("state", "in_head", "unsent", "seconds"),
    [
        (State.IDLE, False, 0, KEEP_ALIVE_SECONDS),
        (State.IDLE, True, 0, HEAD_SECONDS),
        (State.IDLE, False, 1, WRITE_SECONDS),
        (State.DISCARDING, False, 0, QUIET_SECONDS),
        (State.LINGERING, False, 0, QUIET_SECONDS),
        (State.LINGERING, False, 1, WRITE_SECONDS),
        (State.CLOSED, False, 1, WRITE_SECONDS),
    ],
)
def test_a_connection_is_aborted_at_the_limit_of_its_state(
    watched: Watched, state: State, in_head: bool, unsent: int, seconds: float
) -> None:
    watched.connection.state, watched.connection.in_head, watched.connection.unsent = state, in_head, unsent
    assert watched.aborts_after(seconds)


@pytest.mark.parametrize("state", [State.RECEIVING, State.RESPONDING])
def test_the_application_may_take_as_long_as_it_likes(watched: Watched, state: State) -> None:
    watched.connection.state = state
    assert watched.watchdog.deadline() == math.inf
    watched.loop.advance(100_000)
    assert not watched.connection.aborted


@pytest.mark.parametrize("state", State)
def test_a_client_that_reads_nothing_is_aborted_in_every_state(watched: Watched, state: State) -> None:
    watched.connection.state = state
    watched.connection.write_blocked = cast("asyncio.Future[None]", object())
    assert watched.aborts_after(WRITE_SECONDS)


def test_a_drain_shortens_a_wait_that_has_begun(watched: Watched) -> None:
    watched.loop.advance(DRAIN_IDLE_SECONDS / 2)
    watched.draining = True
    watched.loop.advance(DRAIN_IDLE_SECONDS)
    assert watched.connection.aborted


def test_each_new_wait_has_the_whole_time(watched: Watched) -> None:
    for _ in range(10):
        watched.loop.advance(KEEP_ALIVE_SECONDS - 1)
        watched.watchdog.restart()
    assert watched.aborts_after(KEEP_ALIVE_SECONDS)


def test_lingering_is_limited_in_total_although_bytes_arrive(watched: Watched) -> None:
    watched.connection.state = State.LINGERING
    watched.watchdog.restart_lingering()
    while not watched.connection.aborted:
        started = watched.loop.now
        watched.loop.advance(QUIET_SECONDS / 2)
        watched.watchdog.restart()
        assert started < 1000 + LINGER_SECONDS
    assert watched.loop.now >= 1000 + LINGER_SECONDS


def test_there_is_never_more_than_one_timer(watched: Watched) -> None:
    for _ in range(5):
        watched.watchdog.check()
    assert sum(not timer.cancelled for timer in watched.loop.timers) == 1
    watched.watchdog.cancel()
    assert all(timer.cancelled for timer in watched.loop.timers)
