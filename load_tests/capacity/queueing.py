"""How long requests wait: the M/G/k queue, requests at random moments before k servers that share a queue.

The chance to wait is Erlang's; the wait of those who do is exponential, its mean that of Allen and Cunneen (exact for
one server and for exponential service); the service is what was measured. With one server each, a queue for every
server, it is k queues of one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]

PRECISION = 1e-4
"""Of a rate that is searched for, relative."""


def erlang_c(servers: int, load: float) -> float:
    """The chance that a request waits, if `load` (arrivals a second times mean service) of the servers are busy.

    Raises:
        ValueError: the load is not below the number of servers: the queue grows for ever.
    """
    if not 0 <= load < servers:
        raise ValueError(f"{servers} servers cannot carry a load of {load:g}")
    blocked = 1.0  # Erlang's B, which has a stable recursion
    for number in range(1, servers + 1):
        blocked = load * blocked / (number + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


@dataclass(frozen=True)
class Station:
    """Servers that are all alike, before one queue."""

    servers: int
    service: Seconds
    """How long requests take a server, in seconds: measured times, or quantiles of them."""

    @property
    def most(self) -> float:
        """Requests a second that the servers can answer at all."""
        return self.servers / float(self.service.mean())

    @property
    def variability(self) -> float:
        """Variance of the service by its squared mean: 0 if it is always the same, 1 if exponential."""
        return float(self.service.var() / self.service.mean() ** 2)

    def late(self, rate: float, bound: float) -> float:
        """The share of requests whose wait and service together take longer than `bound` seconds.

        Raises:
            ValueError: the requests are too many.
        """
        left = bound - self.service
        with np.errstate(over="ignore"):
            waits = self._waiting(rate) * np.exp(-self._decay(rate) * np.maximum(left, 0))
        return float(np.where(left < 0, 1.0, waits).mean())

    def highest_rate(self, bound: float, share: float = 0.01) -> float:
        """The most requests a second of which at most `share` take longer than `bound` seconds; 0 if none can."""
        low, high = 0.0, self.most * (1 - 1e-9)
        if self.late(low, bound) > share:
            return 0.0
        while high - low > PRECISION * self.most:
            middle = (low + high) / 2
            low, high = (middle, high) if self.late(middle, bound) <= share else (low, middle)
        return low

    def _waiting(self, rate: float) -> float:
        return erlang_c(self.servers, rate * float(self.service.mean()))

    def _decay(self, rate: float) -> float:
        """How fast the wait of those who wait ends, a second."""
        return 2 * (self.most - rate) / (1 + self.variability)


def fewest(enough: Callable[[int], bool]) -> int:
    """The smallest number from 1 on that is enough, if all above it are too."""
    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def pooled(service: Seconds, rate: float, bound: float, share: float = 0.01) -> int:
    """Servers behind one queue, or a balancer that picks the one with the fewest requests under way.

    Raises:
        ValueError: not even a request alone is answered in time.
    """
    _must_be_possible(service, bound, share)
    return fewest(lambda servers: _keeps(Station(servers, service), rate, bound, share))


def separate(service: Seconds, rate: float, bound: float, share: float = 0.01) -> int:
    """Servers that each have a queue, which requests join at random.

    Raises:
        ValueError: not even a request alone is answered in time.
    """
    _must_be_possible(service, bound, share)
    return math.ceil(rate / Station(1, service).highest_rate(bound, share))


def _keeps(station: Station, rate: float, bound: float, share: float) -> bool:
    return rate < station.most and station.late(rate, bound) <= share


def _must_be_possible(service: Seconds, bound: float, share: float) -> None:
    if Station(1, service).highest_rate(bound, share) <= 0:
        raise ValueError(f"more than {share:.0%} of the requests take longer than {bound:g} s without any queue")
