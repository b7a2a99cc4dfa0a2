"""How many replicas and how much money steady traffic takes, by the M/G/k queue and what `make knee` has measured.

The queue foresees a knee; how far that is from the measured one is taken off every plan.
"""

from dataclasses import dataclass

import numpy as np

from load_tests.capacity.queueing import Seconds, Station, pooled, separate
from load_tests.knee.result import Knee

MONTH_HOURS = 730


@dataclass(frozen=True)
class Cost:
    """What a task costs."""

    task: str
    service: Seconds
    """CPU seconds of a request on one core: its mean that at the knee, its spread that of lone requests."""
    knee: float
    """Requests a second that one core answered within the bound."""
    bound: float
    """Seconds, at p99."""
    seconds_to_ready: float

    @classmethod
    def of(cls, knee: Knee) -> "Cost":
        """As it was measured.

        Raises:
            SystemExit: it was measured on a server whose CPU time is not known.
        """
        if knee.cpu_us is None or knee.seconds_to_ready is None:
            raise SystemExit(f"the knee of {knee.task} is of a server that make knee has not started: without --url")
        lone = np.array(knee.lone_ms)
        return cls(
            task=knee.task,
            service=lone / lone.mean() * knee.cpu_us / 1e6,
            knee=knee.per_second,
            bound=knee.slo_ms / 1e3,
            seconds_to_ready=knee.seconds_to_ready,
        )

    @property
    def foreseen_knee(self) -> float:
        """What the queue says that one core answers within the bound."""
        return Station(1, self.service).highest_rate(self.bound)

    @property
    def yielded(self) -> float:
        """The measured knee by the foreseen one."""
        return self.knee / self.foreseen_knee


@dataclass(frozen=True)
class Plan:
    """What some steady traffic takes, one core a replica."""

    rate: float
    pooled: int
    """Replicas, if a balancer sends each request where the fewest are under way."""
    separate: int
    """Replicas, if requests or connections are spread at random."""
    month: float
    """Money for the latter, a month."""


def plan(cost: Cost, rate: float, bound: float, price: float) -> Plan:
    """For `rate` requests a second, p99 within `bound` seconds, at a `price` of a core an hour.

    Raises:
        ValueError: not even a request alone is answered in time.
    """
    slowed = cost.service / min(1.0, cost.yielded)
    replicas = separate(slowed, rate, bound)
    return Plan(rate, pooled(slowed, rate, bound), replicas, replicas * price * MONTH_HOURS)
