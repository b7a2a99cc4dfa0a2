"""What becomes of traffic that changes: second by second, replicas that start late, each before a bounded queue."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from load_tests.capacity.autoscaler import Rules, Scaler
from load_tests.capacity.traffic import Series


@dataclass(frozen=True)
class Replica:
    """What one of them can do."""

    per_second: float
    """Requests."""
    ready_seconds: float
    """From the decision to add it until it serves: scheduling, pulling the image, starting."""
    most_waiting: float
    """Requests that may wait in it; more are refused."""


@dataclass(frozen=True)
class Outcome:
    """What came of it, second by second."""

    rate: Series
    """Requests that came."""
    ready: Series
    """Replicas that served."""
    paid: Series
    """Replicas that were there, starting or serving."""
    lag: Series
    """Seconds that a request waited which came then."""
    dropped: Series
    """Requests that were refused."""

    @property
    def dropped_share(self) -> float:
        """Of all requests."""
        return float(self.dropped.sum() / self.rate.sum())

    def late_share(self, bound: float) -> float:
        """Of all requests, those that were refused or waited longer than `bound` seconds."""
        late = np.where(self.lag > bound, self.rate, self.dropped)
        return float(late.sum() / self.rate.sum())

    @property
    def replica_hours(self) -> float:
        """That are paid for."""
        return float(self.paid.sum() / 3600)


def simulate(rate: Series, replica: Replica, rules: Rules) -> Outcome:
    """Runs the traffic, requests a second for each second, against replicas that the rules scale.

    Requests are a stream, not single ones: nobody waits while there is capacity left. It begins with as many replicas
    as the first second asks for.
    """
    scaler = Scaler(rules)
    starting: deque[int] = deque()
    """When each will be ready."""
    wanted = math.ceil(rate[0] / replica.per_second / (rules.cpu or 1))
    ready, waiting = min(rules.most, max(rules.least, wanted)), 0.0
    readings: deque[tuple[float, float]] = deque(maxlen=max(rules.scrape, rules.queue_window))
    seen = (0.0, 0.0)
    rows = np.zeros((4, len(rate)))
    for now, arriving in enumerate(rate):
        while starting and starting[0] <= now:
            starting.popleft()
            ready += 1
        served = min(waiting + arriving, ready * replica.per_second)
        left = waiting + arriving - served
        waiting = min(left, ready * replica.most_waiting)
        readings.append((served / replica.per_second, waiting))
        rows[:, now] = ready, ready + len(starting), waiting / (ready * replica.per_second), left - waiting
        if now % rules.scrape == 0:
            seen = _averages(readings, rules)
        if now % rules.sync == 0:
            total = ready + len(starting)
            change = scaler.decide(now, total, ready, *seen) - total
            starting.extend([now + math.ceil(replica.ready_seconds)] * max(0, change))
            for _ in range(-change):
                if starting:
                    starting.pop()
                else:
                    ready -= 1
    return Outcome(rate, *rows)


def _averages(readings: Iterable[tuple[float, float]], rules: Rules) -> tuple[float, float]:
    """Busy cores over the last scrape, waiting requests over the window."""
    latest = list(readings)
    return (
        float(np.mean([cpu for cpu, _ in latest[-rules.scrape :]])),
        float(np.mean([waiting for _, waiting in latest[-rules.queue_window :]])),
    )


def fixed(rate: Series, replica: Replica, replicas: int) -> Outcome:
    """The same traffic against a number of replicas that does not change."""
    return simulate(rate, replica, Rules(least=replicas, most=replicas, cpu=None))
