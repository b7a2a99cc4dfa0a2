"""What an autoscaler makes of traffic that changes: second by second, replicas that start late behind a bounded queue.

The rules are those of Kubernetes' HorizontalPodAutoscaler, with which KEDA scales too: every so often it wants as many
replicas as bring the metric to its target, the most that any of its triggers wants; it ignores small differences, adds
and takes away no more than its policies allow, and takes away only what it has not wanted for a while.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Series = npt.NDArray[np.float64]
"""One value a second."""

DAY = 86_400


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
class Rules:
    """The autoscaler's, in the terms of Kubernetes' `behavior` and of KEDA's triggers; times in seconds."""

    least: int = 2
    most: int = 10
    cpu: float | None = 0.7
    """Wanted share of the requested cores; None to ignore it."""
    queue_rows: float | None = None
    """Wanted requests that wait in a replica; None to ignore them."""
    queue_window: int = 60
    """Over which the waiting requests are averaged."""
    sync: int = 15
    """Between two decisions."""
    scrape: int = 15
    """Between two readings of the metrics, which the decisions see."""
    tolerance: float = 0.1
    grow_percent: int = 100
    grow_seconds: int = 15
    """Within so many it grows by `grow_percent` at most."""
    shrink_by: int = 1
    shrink_seconds: int = 60
    """Within so many it shrinks by `shrink_by` at most."""
    shrink_window: int = 300
    """It shrinks to the most that was wanted within."""


HPA = Rules()
"""By CPU alone, as deploy/kubernetes/components/hpa has it."""
KEDA = Rules(queue_rows=32)
"""By the rows that wait, and CPU, as deploy/kubernetes/components/keda has it."""


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


@dataclass
class Scaler:
    """The autoscaler, and what it remembers."""

    rules: Rules
    wanted: deque[tuple[int, int]] = field(default_factory=deque)
    """When it wanted how many, over the last `shrink_window` seconds."""
    changes: deque[tuple[int, int]] = field(default_factory=deque)
    """When it added how many, over the longest time that a policy looks back."""

    def decide(self, now: int, replicas: int, ready: int, cpu: float, waiting: float) -> int:
        """How many replicas there should be.

        Args:
            now: the second.
            replicas: that there are, starting ones too.
            ready: that serve.
            cpu: cores that are busy, of one each.
            waiting: requests in all queues.
        """
        wanted = max([self.rules.least, *self._by_triggers(replicas, ready, cpu, waiting)])
        wanted = min(self.rules.most, wanted)
        if not self.wanted:
            self.wanted.append((now, replicas))
        self.wanted.append((now, wanted))
        while self.wanted[0][0] <= now - self.rules.shrink_window:
            self.wanted.popleft()
        if wanted < replicas:
            wanted = min(replicas, max(number for _, number in self.wanted))
        allowed = self._allow(now, replicas, wanted)
        if allowed != replicas:
            self.changes.append((now, allowed - replicas))
        return allowed

    def _by_triggers(self, replicas: int, ready: int, cpu: float, waiting: float) -> list[int]:
        wants = []
        if self.rules.cpu is not None:
            wants.append(self._by_cpu(replicas, ready, cpu))
        if self.rules.queue_rows is not None:
            ratio = waiting / (self.rules.queue_rows * replicas)
            wants.append(replicas if self._is_near(ratio) else math.ceil(waiting / self.rules.queue_rows))
        return wants

    def _by_cpu(self, replicas: int, ready: int, cpu: float) -> int:
        """Replicas that do not serve yet count as idle when it grows, so that it does not overshoot."""
        assert self.rules.cpu is not None
        ratio = cpu / max(1, ready) / self.rules.cpu
        counted = ready
        if ratio > 1 and ready < replicas:
            counted = replicas
            ratio = cpu / replicas / self.rules.cpu
            if ratio < 1:
                return replicas
        return replicas if self._is_near(ratio) else math.ceil(ratio * counted - 1e-9)

    def _is_near(self, ratio: float) -> bool:
        return abs(ratio - 1) <= self.rules.tolerance

    def _allow(self, now: int, replicas: int, wanted: int) -> int:
        """As far towards it as the policies let."""
        rules = self.rules
        while self.changes and self.changes[0][0] <= now - max(rules.grow_seconds, rules.shrink_seconds):
            self.changes.popleft()
        if wanted > replicas:
            added = sum(change for when, change in self.changes if change > 0 and when > now - rules.grow_seconds)
            return max(replicas, min(wanted, math.ceil((replicas - added) * (1 + rules.grow_percent / 100))))
        taken = sum(-change for when, change in self.changes if change < 0 and when > now - rules.shrink_seconds)
        return min(replicas, max(wanted, replicas + taken - rules.shrink_by))


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


def day(peak: float) -> Series:
    """A day: a tenth of the peak at eight in the morning, more at lunch, all of it at eight in the evening."""
    hours = np.arange(DAY) / 3600
    main = (1 + np.cos((hours - 20) / 24 * 2 * np.pi)) / 2
    lunch = 0.35 * np.exp(-(((hours - 13) / 2) ** 2))
    curve = np.clip(main + lunch, 0, None)
    rate: Series = peak * (0.1 + 0.9 * (curve - curve.min()) / (curve.max() - curve.min()))
    return rate


def spike(peak: float, seconds: int = 3600, times: float = 5.0) -> Series:
    """An hour in which a fifth of the peak becomes all of it within ten seconds, for ten minutes."""
    moments = np.arange(seconds)
    return np.interp(moments, [0, 600, 610, 1200, 1260, seconds], [peak / times] * 2 + [peak] * 2 + [peak / times] * 2)


TRAFFIC: dict[str, Callable[[float], Series]] = {"day": day, "spike": spike}
