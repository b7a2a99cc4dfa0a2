"""The rate limit of each client: a sliding window of requests, counted by the `limits` package.

A worker counts in its own memory, or all workers of all servers count together in Redis. Without an answer from Redis,
requests pass: a limit that cannot be checked must not take the service down.
"""

import asyncio
import logging
import math
import time
from hashlib import blake2b
from typing import Protocol

from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter as AsyncSlidingWindow
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter as SlidingWindow

from service.errors import TooManyRequests
from service.observability import metrics

logger = logging.getLogger(__name__)

MEMORY = "memory://"
"""The URI of a worker's own memory."""

MOST_CLIENTS = 10_000
"""Clients in the memory of a worker at most: about 6 MB. One more, and all start anew: the library looks through all of
them about 50 times a second, which would take too long with more."""
REDIS_SECONDS = 0.25
"""Time that a request waits for Redis at most."""
MOST_CONNECTIONS = 16
"""Connections of a worker to Redis at most."""
PAUSE_SECONDS = 1.0
"""Time after a failure of Redis in which it is not asked."""

Window = tuple[int, float, int, float]
"""Requests in the previous window, the seconds that it still counts, and the same of the current window."""


class Storage(Protocol):
    """Counts the requests of clients."""

    async def take(self, client: str) -> Window | None:
        """Count a request and return None, or return the windows of a client that has none left."""

    async def close(self) -> None:
        """Close the connections."""


class RateLimit:
    """Limits the requests of each client."""

    def __init__(self, rate: float, burst: int, storage_uri: str = MEMORY) -> None:
        """Allow `rate` requests a second to each client, over a window of whole seconds that holds at least `burst`.

        Args:
            rate: above 0.
            burst: at least 1.
            storage_uri: where requests are counted: `MEMORY` or the URI of a Redis server.
        """
        self._rate = rate
        self._seconds = max(1, math.ceil(burst / rate))
        self._amount = max(1, int(rate * self._seconds))
        item = RateLimitItemPerSecond(self._amount, self._seconds, namespace="deepserve")
        self._storage: Storage = InMemory(item) if storage_uri == MEMORY else InRedis(item, storage_uri)

    async def check(self, client: bytes) -> None:
        """Count a request of a client, which may be an API key: only its digest is stored.

        Raises:
            TooManyRequests: the client has made too many.
        """
        window = await self._storage.take(blake2b(client, digest_size=16).hexdigest())
        if window is not None:
            raise TooManyRequests(
                f"This client has exceeded its limit of {self._rate:g} requests a second.",
                retry_after=int(self._wait(*window)) + 1,
            )

    async def close(self) -> None:
        """Close the connections to the storage."""
        await self._storage.close()

    def _wait(self, previous: int, previous_left: float, current: int, current_left: float) -> float:
        """Return the seconds until a client that is over its limit may make a request.

        The weight of the previous window falls from 1 to 0 while the current one lasts.
        """
        rest = max(0.0, current_left - self._seconds)  # the storage keeps a window for twice its length
        if current >= self._amount or not previous:
            return rest
        return min(rest, previous_left - (self._amount - current) * self._seconds / previous)


class InMemory:
    """The memory of this worker."""

    def __init__(self, item: RateLimitItemPerSecond) -> None:
        self._item = item
        self._start_anew()

    async def take(self, client: str) -> Window | None:
        if self._limiter.hit(self._item, client):
            if len(self._windows.storage) > MOST_CLIENTS:
                self._start_anew()
            return None
        return self._windows.get_sliding_window(self._item.key_for(client), self._item.get_expiry())

    async def close(self) -> None:
        pass

    def _start_anew(self) -> None:
        self._windows = MemoryStorage()
        self._limiter = SlidingWindow(self._windows)


class InRedis:
    """A Redis server that workers share."""

    def __init__(self, item: RateLimitItemPerSecond, uri: str) -> None:
        from redis.asyncio import BlockingConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self._item = item
        self._connections = BlockingConnectionPool.from_url(
            uri.removeprefix("redis+") if uri.startswith("redis+unix") else uri,
            max_connections=MOST_CONNECTIONS,
            timeout=REDIS_SECONDS,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._windows = RedisStorage(
            f"async+{uri}",
            implementation="redispy",
            key_prefix="deepserve",
            connection_pool=self._connections,  # type: ignore[arg-type]  # the library declares scalars alone
        )
        self._limiter = AsyncSlidingWindow(self._windows)
        self._failures = metrics.RATE_LIMIT_FAILURES.gathered()
        self._asked_again = 0.0
        """When Redis is asked again, by `time.monotonic`; 0 while it answers."""

    async def take(self, client: str) -> Window | None:
        if time.monotonic() < self._asked_again:
            self._failures.inc()
            return None
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                window = await self._take(client)
        except Exception as error:  # whatever is wrong with Redis, the service goes on
            self._failures.inc()
            if not self._asked_again:
                logger.warning("rate limits are not enforced: Redis does not answer (%s)", _reason(error))
            self._asked_again = time.monotonic() + PAUSE_SECONDS
            return None
        if self._asked_again:
            logger.warning("rate limits are enforced again: Redis answers")
            self._asked_again = 0.0
        return window

    async def close(self) -> None:
        await self._connections.disconnect()

    async def _take(self, client: str) -> Window | None:
        if await self._limiter.hit(self._item, client):
            return None
        return await self._windows.get_sliding_window(self._item.key_for(client), self._item.get_expiry())


def _reason(error: Exception) -> str:
    """Return what is wrong with Redis; the messages of its client contain no password."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
