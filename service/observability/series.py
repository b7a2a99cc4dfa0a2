"""Counters, gauges and histograms on the board that all workers share, and what Prometheus is told of them.

The library of Prometheus writes what it is told; to count, this is used instead. The library takes 3 us to observe a
number for several workers, and keeps no exemplars of them; here it takes 0.3 us. Labels are looked up once: `labels`
gives what counts, to be kept.
"""

import math
import struct
import time
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from operator import itemgetter
from threading import Lock

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from service.observability.board import BOARD
from service.observability.ledger import Labels, Row

_EXEMPLAR = struct.Struct("16sdd")
"""Trace id, value, seconds since 1970."""
TEXT, OPENMETRICS = MEDIA_TYPES = ("text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0")
"""The exposition formats, the preferred one first."""
_TAKING = Lock()

PerWorker = Sequence[Sequence[float]]
"""The numbers of a series, of each worker that has it."""


class Family(ABC):
    """The series of one name, each with other values of its labels."""

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self.name, self.text, self.label_names = name, text, labels
        self._places: dict[Labels, int] = {}
        FAMILIES[name] = self

    @abstractmethod
    def metric(self, series: Mapping[Labels, PerWorker]) -> Metric:
        """What the numbers of all workers come to."""

    def _place(self, labels: Labels, size: int, lasting: int, empty: float = 0.0) -> int:
        if len(labels) != len(self.label_names):
            raise ValueError(f"{self.name} has the labels {self.label_names}, and not {labels}")
        with _TAKING:
            if labels not in self._places:
                self._places[labels] = BOARD.take(self.name, labels, size, lasting, empty)
            return self._places[labels]


FAMILIES: dict[str, Family] = {}
"""All that there are, by name."""


class Counter(Family):
    """What only rises."""

    def labels(self, *labels: str) -> "Number":
        return Number(self._place(labels, 1, 1))

    def metric(self, series: Mapping[Labels, PerWorker]) -> Metric:
        metric = CounterMetricFamily(self.name, self.text, labels=self.label_names)
        for labels, workers in series.items():
            metric.add_metric(labels, sum(numbers[0] for numbers in workers))
        return metric


class Gauge(Family):
    """What rises and falls; of several workers the sum, or the least. There is none until it is set."""

    def __init__(self, name: str, text: str, labels: Labels = (), *, least: bool = False) -> None:
        super().__init__(name, text, labels)
        self._of_all = min if least else sum

    def labels(self, *labels: str) -> "Number":
        return Number(self._place(labels, 1, 0, math.nan))

    def metric(self, series: Mapping[Labels, PerWorker]) -> Metric:
        metric = GaugeMetricFamily(self.name, self.text, labels=self.label_names)
        for labels, workers in series.items():
            if there := [numbers[0] for numbers in workers if not math.isnan(numbers[0])]:
                metric.add_metric(labels, self._of_all(there))
        return metric


class Histogram(Family):
    """How often what was observed was at most so much."""

    def __init__(
        self, name: str, text: str, labels: Labels, buckets: Sequence[float], *, exemplars: bool = False
    ) -> None:
        super().__init__(name, text, labels)
        self.buckets = tuple(map(float, buckets))
        self._names = [*map(repr, self.buckets), "+Inf"]
        self._lasting = len(buckets) + 2
        """Observations in each bucket, and their sum."""
        self._size = self._lasting + exemplars * (len(buckets) + 1) * _EXEMPLAR.size // 8

    def labels(self, *labels: str) -> "Observations":
        return Observations(self._place(labels, self._size, self._lasting), self.buckets)

    def metric(self, series: Mapping[Labels, PerWorker]) -> Metric:
        metric = HistogramMetricFamily(self.name, self.text, labels=self.label_names)
        for labels, workers in series.items():
            *counts, total = map(math.fsum, zip(*(numbers[: self._lasting] for numbers in workers), strict=True))
            buckets = [
                (name, below, exemplar) if exemplar else (name, below)
                for name, below, exemplar in zip(self._names, accumulate(counts), self._exemplars(workers), strict=True)
            ]
            metric.add_metric(labels, buckets, total)
        return metric

    def _exemplars(self, workers: PerWorker) -> list[Exemplar | None]:
        """The latest of each bucket."""
        latest = [(b"", 0.0, 0.0)] * len(self._names)
        for numbers in workers:
            own = _EXEMPLAR.iter_unpack(array("d", numbers[self._lasting :]))
            latest = [max(both, key=itemgetter(2)) for both in zip(latest, own, strict=False)] or latest
        return [Exemplar({"trace_id": trace.hex()}, value, when) if when else None for trace, value, when in latest]


class Number:
    """One counter or gauge of this worker; at any time one thread changes it."""

    __slots__ = ("_numbers", "_place")

    def __init__(self, place: int) -> None:
        self._numbers, self._place = BOARD.numbers, place

    def inc(self, by: float = 1.0) -> None:
        """Adds to it."""
        self._numbers[self._place] += by

    def set(self, value: float) -> None:
        """Gives it a value."""
        self._numbers[self._place] = value

    def clear(self) -> None:
        """Takes a gauge away."""
        self._numbers[self._place] = math.nan


class Observations:
    """One histogram of this worker; at any time one thread changes it."""

    __slots__ = ("_buckets", "_numbers", "_place", "_sum")

    def __init__(self, place: int, buckets: tuple[float, ...]) -> None:
        self._numbers, self._place, self._buckets = BOARD.numbers, place, buckets
        self._sum = place + len(buckets) + 1

    def observe(self, value: float) -> None:
        """Adds an observation."""
        self._numbers[self._place + bisect_left(self._buckets, value)] += 1.0
        self._numbers[self._sum] += value

    def exemplify(self, value: float, trace_id: bytes) -> None:
        """Keeps an observation as the example of its bucket; the id of its trace has 16 bytes."""
        first = 8 * (self._sum + 1) + _EXEMPLAR.size * bisect_left(self._buckets, value)
        BOARD.octets[first : first + _EXEMPLAR.size] = _EXEMPLAR.pack(trace_id, value, time.time())


class WorkersCollector(Collector):
    """What the rows of all workers come to, as the library collects it."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = rows

    def collect(self) -> Iterator[Metric]:
        """Every family that has a series."""
        found: dict[str, dict[Labels, list[Sequence[float]]]] = {name: {} for name in FAMILIES}
        for name, labels, numbers in self._rows:
            found[name].setdefault(labels, []).append(numbers)
        for name, series in found.items():
            if series:
                yield FAMILIES[name].metric(dict(sorted(series.items())))
            time.sleep(0)  # lets other threads work


def exposition(rows: Iterable[Row], media_type: str) -> tuple[bytes, str]:
    """Return the series in an exposition format, and the format's full media type.

    Args:
        rows: of all workers.
        media_type: one of `MEDIA_TYPES`. OpenMetrics has exemplars too.
    """
    encode, full_media_type = choose_encoder(media_type)
    return encode(WorkersCollector(rows)), full_media_type
