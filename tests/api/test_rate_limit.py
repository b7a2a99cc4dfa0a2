"""A client may make so many requests a second; the limit is kept in memory or shared in Redis, and fails open."""

import asyncio
import itertools
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import rate_limit
from service.api.rate_limit import MAX_CLIENTS, PAUSE_SECONDS, REDIS_SECONDS, RateLimit, SharedRateLimit
from service.errors import TooManyRequests
from service.observability import metrics
from service.observability.exposition import Reading
from service.observability.series import flush
from tests.redis_server import PASSWORD, RedisServer, redis_server

pytestmark = pytest.mark.anyio

CLIENTS = itertools.count()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine does not make Redis count as away."""
    monkeypatch.setattr(rate_limit, "REDIS_SECONDS", 20)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


Create = Callable[..., RateLimit]


@pytest.fixture
async def create() -> AsyncIterator[Create]:
    """Creates rate limits, and closes them after the test."""
    async with AsyncExitStack() as open_limits:

        def create(rate: float, burst: int, redis: RedisServer | None = None) -> RateLimit:
            limit = RateLimit(rate, burst) if redis is None else SharedRateLimit(rate, burst, redis.uri)
            open_limits.push_async_callback(limit.close)
            return limit

        yield create


def new_client() -> bytes:
    return b"client %d" % next(CLIENTS)


async def retry_after(limit: RateLimit, client: bytes) -> int:
    """Make a request. Return the seconds after which to come again, 0 if it passed."""
    try:
        await limit.check(client)
    except TooManyRequests as refused:
        return refused.retry_after_seconds
    return 0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("storage", ["memory", "redis"])
async def test_a_client_over_its_limit_is_refused_and_no_other(
    storage: str, redis: RedisServer, create: Create
) -> None:
    limit = create(0.5, 5, redis if storage == "redis" else None)
    greedy, calm = new_client(), new_client()
    assert [await retry_after(limit, greedy) for _ in range(5)] == [0] * 5
    refused = [await retry_after(limit, greedy) for _ in range(5)]
    assert all(1 <= seconds <= 10 for seconds in refused)
    assert await retry_after(limit, calm) == 0


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("storage", ["memory", "redis"])
async def test_a_client_that_waits_as_told_is_served(storage: str, redis: RedisServer, create: Create) -> None:
    limit = create(2, 2, redis if storage == "redis" else None)
    client = new_client()
    for _ in range(2):
        while (seconds := await retry_after(limit, client)) == 0:
            pass
        assert seconds <= 2
        await asyncio.sleep(seconds)
        assert await retry_after(limit, client) == 0


@given(
    rate=st.floats(0.01, 1e4),
    burst=st.integers(1, 50),
    asked=st.lists(st.tuples(st.floats(0, 5), st.sampled_from([b"one", b"two"])), max_size=100),
)
def test_in_memory_no_period_has_more_requests_than_rate_and_burst_allow(
    rate: float, burst: int, asked: list[tuple[float, bytes]]
) -> None:
    limit = RateLimit(rate, burst)
    now = 1e6
    passed: dict[bytes, list[float]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.monotonic", lambda: now)
        for pause, client in asked:
            now += pause / rate
            if seconds := run(retry_after(limit, client)):
                now += seconds
                assert run(retry_after(limit, client)) == 0, "it has waited as long as it was told"
            passed.setdefault(client, []).append(now)
    for times in passed.values():
        for first, begin in enumerate(times):
            for count, end in enumerate(times[first:], start=1):
                assert count <= rate * (end - begin) + burst + 1e-3


def run(check: Coroutine[None, None, int]) -> int:
    """Run a check that waits for nothing, without an event loop."""
    with pytest.raises(StopIteration) as ended:
        check.send(None)
    result: int = ended.value.value
    return result


async def test_a_client_has_its_burst_at_once_and_then_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    limit = RateLimit(10, 3)
    assert [await retry_after(limit, b"one") for _ in range(4)] == [0, 0, 0, 1]
    now = 100.11
    assert [await retry_after(limit, b"one") for _ in range(2)] == [0, 1]
    now = 200.0
    assert [await retry_after(limit, b"one") for _ in range(4)] == [0, 0, 0, 1]


async def test_the_memory_of_a_worker_is_bounded_and_the_least_recent_client_is_forgotten() -> None:
    limit = RateLimit(0.001, 1)
    assert [await retry_after(limit, client) > 0 for client in (b"old", b"greedy") * 2] == [False] * 2 + [True] * 2
    for client in range(MAX_CLIENTS + 1000):
        assert await retry_after(limit, b"%d" % client) == 0
        if client % 1000 == 0:
            assert await retry_after(limit, b"greedy") > 0, "a flood of other clients has made it forgotten"
    assert len(limit._full_at) == MAX_CLIENTS
    assert await retry_after(limit, b"old") == 0


@pytest.mark.usefixtures("patient")
async def test_workers_share_the_limit_in_redis_which_does_not_store_keys(redis: RedisServer, create: Create) -> None:
    workers = [create(1, 10, redis) for _ in range(2)]
    client = new_client()
    found = await asyncio.gather(*(retry_after(worker, client) for worker in workers * 20))
    assert 10 <= found.count(0) <= 12, "10 at once, and one each second"
    assert not [key for key in redis.stored() if client.decode() in key]


async def test_requests_pass_at_once_while_redis_is_away(caplog: pytest.LogCaptureFixture, create: Create) -> None:
    caplog.set_level(logging.WARNING)
    before = failures()
    with redis_server() as server:
        limit = create(0.001, 1, server)
        assert [await retry_after(limit, b"one") > 0 for _ in range(2)] == [False, True]
        server.process.send_signal(signal.SIGSTOP)
        ticks = asyncio.create_task(longest_pause())
        started = time.monotonic()
        assert await asyncio.gather(*(retry_after(limit, b"one") for _ in range(50))) == [0] * 50
        assert time.monotonic() - started < 10 * REDIS_SECONDS, "one waited for the other"
        started = time.monotonic()
        assert [await retry_after(limit, b"one") for _ in range(50)] == [0] * 50
        assert time.monotonic() - started < REDIS_SECONDS, "Redis is asked again by each request"
        ticks.cancel()
        assert await ticks < 4 * REDIS_SECONDS, "the event loop was blocked"
        server.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(PAUSE_SECONDS)
        assert await retry_after(limit, b"one") > 0
    await asyncio.sleep(0)
    assert await retry_after(limit, b"one") == 0, "Redis has ended"
    assert failures() == before + 101
    said = [record.getMessage() for record in caplog.records if "rate limits" in record.getMessage()]
    assert [line.partition(":")[0] for line in said] == [
        "rate limits are not enforced",
        "rate limits are enforced again",
        "rate limits are not enforced",
    ]
    assert PASSWORD not in caplog.text


async def longest_pause() -> float:
    """Return the longest time between two turns of the event loop, until cancelled."""
    longest, last = 0.0, time.monotonic()
    try:
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
    except asyncio.CancelledError:
        return longest


def failures() -> float:
    flush()
    return Reading().counter(metrics.RATE_LIMIT_FAILURES)
