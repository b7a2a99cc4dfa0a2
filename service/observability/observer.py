"""The events of batchers and caches that metrics record."""

from typing import NamedTuple


class StageSeconds(NamedTuple):
    """Duration of each stage of a run, in seconds."""

    input: float
    """Stacking the inputs of the requests."""
    infer: float
    """Computing, including the way to a thread and back."""
    output: float
    """Distributing the outputs to the requests."""


class Observer:
    """Receives events. Subclasses override the ones that they record; the others are ignored."""

    def waits(self, rows: int) -> None:
        """Record the rows that wait in the queue. The number is at most `batcher.QUEUE_REPORT_SECONDS` old."""

    def ran(self, rows: int, times: StageSeconds) -> None:
        """Record a successful run of `rows` rows."""

    def answered(self, seconds: float, waited: float) -> None:
        """Record a request that succeeded `seconds` after its arrival, having `waited` seconds for its run."""

    def failed(self, seconds: float) -> None:
        """Record a request whose run failed, `seconds` after its arrival."""

    def holds(self, size: int) -> None:
        """Record the size of a cache, in bytes."""

    def evicted(self, entries: int) -> None:
        """Record the entries that a cache evicted to make room."""

    def hit(self, seconds: float) -> None:
        """Record a cache lookup of `seconds` that found an entry."""

    def missed(self) -> None:
        """Record a cache lookup that found none."""

    def kept(self, seconds: float) -> None:
        """Record a new entry. Its failed lookup and its insertion took `seconds` together."""
