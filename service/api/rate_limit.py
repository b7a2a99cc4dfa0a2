"""The rate limit of each client, counted in the memory of each worker or, for all workers of all servers, in Redis.

In memory, a client has one number: the time at which its bucket of requests is full again (GCRA, the leaky bucket as a
meter of ITU-T I.371). The `limits` package has a storage in memory too, but it starts 100 threads a second and looks
through all clients in each: a request costs 16 % more with it. In Redis, the package counts in a sliding window.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from hashlib import blake2b

from service.errors import TooManyRequests
from service.observability import metrics
from service.settings import Settings

logger = logging.getLogger(__name__)

MAX_CLIENTS = 100_000
"""Clients in the memory of a worker at most, in 23 MB: beyond them, the client with the oldest request is forgotten."""

REDIS_SECONDS = 0.25
"""Time that a request waits for Redis at most."""
PAUSE_SECONDS = 1.0
"""Time after a failure of Redis in which it is not asked."""
MAX_CONNECTIONS = 16
"""Connections of a worker to Redis at most."""


class RateLimit:
    """Limits the requests of each client, counted in the memory of this worker."""

    def __init__(self, rate: float, burst: int) -> None:
        """Allow each client `rate` requests a second, above 0, and `burst` requests at once, at least 1."""
        self._rate = rate
        self._burst = burst
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """By client, when its bucket is full again, by `time.monotonic`; the client of the last request is last."""

    async def check(self, client: bytes) -> None:
        """Count a request of a client, which may be an API key: only its digest is stored.

        Raises:
            TooManyRequests: the client has made too many.
        """
        if (wait := await self._take(blake2b(client, digest_size=16).hexdigest())) > 0:
            raise TooManyRequests(
                f"This client has exceeded its limit of {self._rate:g} requests a second.",
                retry_after_seconds=math.ceil(wait),
            )

    async def close(self) -> None:
        """Close the connections to the storage."""

    async def _take(self, client: str) -> float:
        """Count a request and return 0, or return the seconds until the client may make one."""
        now = time.monotonic()
        full_at = max(self._full_at.pop(client, now), now)
        wait = full_at - now - (self._burst - 1) / self._rate
        self._full_at[client] = full_at if wait > 0 else full_at + 1 / self._rate
        if len(self._full_at) > MAX_CLIENTS:
            self._full_at.popitem(last=False)
        return max(wait, 0.0)


class SharedRateLimit(RateLimit):
    """Limits the requests of each client, counted in Redis. While Redis does not answer, requests pass."""

    def __init__(self, rate: float, burst: int, uri: str) -> None:
        """Limit as `RateLimit` does, in a sliding window of whole seconds that holds at least `burst` requests.

        Args:
            rate: requests a second of a client, above 0.
            burst: at least 1.
            uri: of the Redis server: `redis://`, `rediss://` or `redis+unix://`.
        """
        from limits import RateLimitItemPerSecond
        from limits.aio.storage import RedisStorage
        from limits.aio.strategies import SlidingWindowCounterRateLimiter
        from redis.asyncio import BlockingConnectionPool
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        super().__init__(rate, burst)
        self._seconds = max(1, math.ceil(burst / rate))
        self._amount = max(1, int(rate * self._seconds))
        self._window = RateLimitItemPerSecond(self._amount, self._seconds, namespace="deepserve")
        self._connections = BlockingConnectionPool.from_url(
            uri.replace("redis+unix", "unix", 1),
            max_connections=MAX_CONNECTIONS,
            timeout=REDIS_SECONDS,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._storage = RedisStorage(
            f"async+{uri}",
            implementation="redispy",
            key_prefix="deepserve",
            connection_pool=self._connections,  # type: ignore[arg-type]  # the library declares scalars alone
        )
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._failures = metrics.RATE_LIMIT_FAILURES.gathered()
        self._paused_until = 0.0
        """When Redis is asked again after a failure, by `time.monotonic`; 0 while it answers."""

    async def close(self) -> None:
        await self._connections.disconnect()

    async def _take(self, client: str) -> float:
        if time.monotonic() < self._paused_until:
            self._failures.inc()
            return 0.0
        try:
            async with asyncio.timeout(REDIS_SECONDS):
                wait = await self._ask_redis(client)
        except Exception as error:  # whatever is wrong with Redis, the service goes on
            self._failures.inc()
            if not self._paused_until:
                reason = f"{type(error).__name__} {error}".strip()
                logger.warning("rate limits are not enforced: Redis does not answer (%s)", reason)
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            return 0.0
        if self._paused_until:
            logger.warning("rate limits are enforced again: Redis answers")
            self._paused_until = 0.0
        return wait

    async def _ask_redis(self, client: str) -> float:
        if await self._limiter.hit(self._window, client):
            return 0.0
        previous, previous_left, current, current_left = await self._storage.get_sliding_window(
            self._window.key_for(client), self._seconds
        )
        rest = max(0.0, current_left - self._seconds)  # Redis keeps a window for twice its length
        if current < self._amount and previous:  # the weight of the previous window falls to 0 while it is kept
            rest = min(rest, previous_left - (self._amount - current) * self._seconds / previous)
        return max(rest, 0.0) + 0.001  # the weight has to fall below the limit


def rate_limit(settings: Settings) -> RateLimit | None:
    """Return the rate limit that the settings ask for; None if there is none."""
    rate, burst = settings.rate_limit_per_second, settings.rate_burst
    uri = settings.rate_limit_storage_uri.get_secret_value()
    if not rate:
        return None
    return RateLimit(rate, burst) if uri == "memory://" else SharedRateLimit(rate, burst, uri)
