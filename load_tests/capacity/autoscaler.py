"""The rules of an autoscaler: those of Kubernetes' HorizontalPodAutoscaler, with which KEDA scales too.

Every so often it wants as many replicas as bring the metric to its target, the most that any of its triggers wants; it
ignores small differences, adds and takes away no more than its policies allow, and takes away only what it has not
wanted for a while.
"""

import math
from collections import deque
from dataclasses import dataclass, field


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
