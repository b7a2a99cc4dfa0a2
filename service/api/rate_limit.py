"""The rate limit of each client: a sliding window of requests, counted by the `limits` package.

A worker counts in its own memory, or all workers of all servers count together in Redis. While Redis does not answer,
requests pass: a limit that cannot be checked must not take the service down.
"""

import asyncio
import logging
import math
import time
from hashlib import blake2b

from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter as AsyncSlidingWindow
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter as SlidingWindow

from service.errors import TooManyRequests
from service.observability import metrics

logger = logging.getLogger(__name__)

MOST_CLIENTS = 10_000
"""Clients in the memory of a worker at most: one more, and all start anew. The library looks through all clients up to
100 times a second, in a thread, which takes 0.1 ms for each 1,000 of them."""

REDIS_SECONDS = 0.25
"""Time that a request waits for Redis at most."""
PAUSE_SECONDS = 1.0
"""Time after a failure of Redis in which it is not asked."""
MOST_CONNECTIONS = 16
"""Connections of a worker to Redis at most."""

Window = tuple[int, float, int, float]
"""The requests of the previous window and the seconds that they still count, and the same of the current window."""


class RateLimit:
    """Limits the requests of each client, counted in the memory of this worker."""

    def __init__(self, rate: float, burst: int) -> None:
        """Allow `rate` requests a second to each client, over a window of whole seconds that holds at least `burst`.

        Args:
            rate: above 0.
            burst: at least 1.
        """
        self._rate = rate
        self.seconds = max(1, math.ceil(burst / rate))
        """The length of the window."""
        self._item = RateLimitItemPerSecond(max(1, int(rate * self.seconds)), self.seconds, namespace="deepserve")
        self._forget_clients()

    async def check(self, client: bytes) -> None:
        """Count a request of a client, which may be an API key: only its digest is stored.

        Raises:
            TooManyRequests: the client has made too many.
        """
        window = await self._take(blake2b(client, digest_size=16).hexdigest())
        if window is not None:
            raise TooManyRequests(
                f"This client has exceeded its limit of {self._rate:g} requests a second.",
                retry_after=int(self._wait(*window)) + 1,
            )

    async def close(self) -> None:
        """Close the connections to the storage."""

    async def _take(self, client: str) -> Window | None:
        """Count a request and return None, or return the windows of a client that has none left."""
        if not self._limiter.hit(self._item, client):
            return self._windows.get_sliding_window(self._item.key_for(client), self.seconds)
        if len(self._windows.storage) > MOST_CLIENTS:
            self._forget_clients()
        return None

    def _forget_clients(self) -> None:
        self._windows = MemoryStorage()
        self._limiter = SlidingWindow(self._windows)

    def _wait(self, previous: int, previous_left: float, current: int, current_left: float) -> float:
        """Return the seconds until a client that is over its limit may make a request.

        The weight of the previous window falls from 1 to 0 while the current one lasts.
        """
        rest = max(0.0, current_left - self.seconds)  # a storage keeps a window for twice its length
        if current >= self._item.amount or not previous:
            return rest
        return min(rest, previous_left - (self._item.amount - current) * self.seconds / previous)


class SharedRateLimit(RateLimit):
    """Limits the requests of each client, counted in Redis."""

    def __init__(self, rate: float, burst: int, uri: str) -> None:
        """Limit as `RateLimit` does, together with all workers that use the Redis server at `uri`."""
        from redis.asyncio import BlockingConnectionPool  # optional
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        super().__init__(rate, burst)
        self._connections = BlockingConnectionPool.from_url(
            uri.replace("redis+unix", "unix", 1),
            max_connections=MOST_CONNECTIONS,
            timeout=REDIS_SECONDS,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = RedisStorage(
            f"async+{uri}",
            implementation="redispy",
            key_prefix="deepserve",
            connection_pool=self._connections,  # type: ignore[arg-type]  # the library declares scalars alone
        )
        self._shared_limiter = AsyncSlidingWindow(self._redis)
        self._failures = metrics.RATE_LIMIT_FAILURES.gathered()
        self._paused_until = 0.0
        """When Redis is asked again after a failure, by `time.monotonic`; 0 while it answers."""

    async def close(self) -> None:
        await self._connections.disconnect()

    async def _take(self, client: str) -> Window | None:
        if time.monotonic() < self._paused_until:
            self._failures.inc()
            return None
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                passes = await self._shared_limiter.hit(self._item, client)
                key = self._item.key_for(client)
                window = None if passes else await self._redis.get_sliding_window(key, self.seconds)
        except Exception as error:  # whatever is wrong with Redis, the service goes on
            self._failures.inc()
            if not self._paused_until:
                reason = f"{type(error).__name__} {error}".strip()
                logger.warning("rate limits are not enforced: Redis does not answer (%s)", reason)
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            return None
        if self._paused_until:
            logger.warning("rate limits are enforced again: Redis answers")
            self._paused_until = 0.0
        return window
