"""What a load run is held to: answers that may fail, how long the slowest hundredth may take, and memory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

P99_MS: Mapping[str, float] = MappingProxyType({"digits": 100, "sentiment": 200, "mammogram": 100, "fashion": 100})
"""By task, unless told otherwise; loose enough for a laptop that is server and client at once."""
GROWTH_MB = 32.0
"""Unless told otherwise."""


class Seen(NamedTuple):
    """How one task was answered."""

    task: str
    requests: int
    failures: int
    """Answers that were refused, wrong, somebody else's, or never came."""
    p99_ms: float


@dataclass(frozen=True)
class Objectives:
    """The bounds."""

    failures: float = 0.0
    """Greatest share of the requests for a task."""
    p99_ms: Mapping[str, float] = field(default_factory=lambda: P99_MS)
    """By task; one that is not named may take as long as it likes."""
    growth_mb: float = GROWTH_MB
    """Most that a soak may add to the server's memory once it is warm."""

    @classmethod
    def parse(cls, failures: float, p99_ms: str, growth_mb: float = GROWTH_MB) -> "Objectives":
        """From settings such as `0.001` and `digits=50,sentiment=120`; the tasks that are not named keep their bounds.

        Raises:
            ValueError: they are not of that form, or name no task.
        """
        named = {}
        for part in filter(None, p99_ms.replace(" ", "").split(",")):
            task, _, figure = part.partition("=")
            if task not in P99_MS:
                raise ValueError(f"{task!r} is no task: {', '.join(P99_MS)} are")
            named[task] = float(figure)
        return cls(failures, {**P99_MS, **named}, growth_mb)

    def breaches(self, seen: Iterable[Seen]) -> list[str]:
        """Each bound that was not kept, a line; of no requests at all nothing can be said, and that is a breach too."""
        asked = [one for one in seen if one.requests]
        if not asked:
            return ["nobody asked anything"]
        return [line for one in asked for line in self._of(one)]

    def breaches_of_soak(self, growth_mb: float | None) -> list[str]:
        """The same for memory; None where it was not seen is a breach too."""
        if growth_mb is None:
            return ["the server's memory was not seen for long enough"]
        if growth_mb > self.growth_mb:
            return [f"the server's memory has grown by {growth_mb:.1f} MB, {self.growth_mb:g} MB are allowed"]
        return []

    def _of(self, seen: Seen) -> list[str]:
        failed, slowest = seen.failures / seen.requests, self.p99_ms.get(seen.task, float("inf"))
        lines = []
        if failed > self.failures:
            lines.append(f"{seen.task}: {failed:.3%} of {seen.requests} failed, {self.failures:.3%} may")
        if seen.p99_ms > slowest:
            lines.append(f"{seen.task}: p99 is {seen.p99_ms:.0f} ms, {slowest:.0f} ms are allowed")
        return lines
