"""Counters, gauges and histograms, kept by prometheus_client.

The library takes about 1 us to observe a value, and 4 us where several workers share their metrics; a request changes
seven series. Series that change with every request therefore gather their changes in plain numbers, and `flush` hands
these to the library: before the metrics are read, and twice a second for other workers to read. A worker that is killed
loses the changes of the last half second.

A family is registered with the library when its first series is made. Until then a process can still join the workers
with which it shares its metrics.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock
from typing import Any, ClassVar, Generic, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Metric, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

disable_created_metrics()  # type: ignore[no-untyped-call]  # `_created` series would double the number of counters

Labels = tuple[str, ...]
LibraryMetric = TypeVar("LibraryMetric", bound=MetricWrapperBase)
Gathered = TypeVar("Gathered")

_CREATING = Lock()

REGISTRY = CollectorRegistry()
"""The families of this process."""


class Family(ABC, Generic[LibraryMetric]):
    """The series of one name, which differ in the values of their labels."""

    type: ClassVar[str]
    suffix: ClassVar[str] = ""
    """Of the names of samples, where there is one sample a series."""

    def __init__(self, name: str, text: str, labels: Labels, *, summed_label: str = "", exposed: bool = True) -> None:
        """Define a family.

        Args:
            name: of the metric, without a suffix such as `_total`.
            text: what it means, for the exposition.
            labels: their names.
            summed_label: one of the labels, over which the exposition sums.
            exposed: whether Prometheus gets the family.
        """
        self.name, self.text, self.label_names = name, text, labels
        self.summed_label, self.exposed = summed_label, exposed
        self._metric: LibraryMetric | None = None
        self._gathering: dict[Labels, Any] = {}
        FAMILIES[name] = self

    @property
    def metric(self) -> LibraryMetric:
        """The library's metric."""
        with _CREATING:
            if self._metric is None:
                self._metric = self._create()
            return self._metric

    def labels(self, *labels: str) -> LibraryMetric:
        """Return the library's metric for these values of the labels. Any thread may change it."""
        return self.metric.labels(*labels) if self.label_names else self.metric

    def flush(self) -> None:
        """Hand the gathered changes to the library."""
        for each in list(self._gathering.values()):  # a thread that loads a model may add some
            each.flush()

    def exposed_with(self, values: Mapping[Labels, float]) -> Metric:
        """Return the family as it is exposed, with these values by labels; without `summed_label`."""
        names = [name for name in self.label_names if name != self.summed_label]
        metric = Metric(self.name, self.text, self.type)
        for labels, value in values.items():
            metric.add_sample(self.name + self.suffix, dict(zip(names, labels, strict=True)), value)
        return metric

    def _gather(self, labels: Labels, create: Callable[[LibraryMetric], Gathered]) -> Gathered:
        found: Gathered = self._gathering.get(labels) or self._gathering.setdefault(
            labels, create(self.labels(*labels))
        )
        return found

    @abstractmethod
    def _create(self) -> LibraryMetric: ...


FAMILIES: dict[str, Family[Any]] = {}
"""All families that are defined, by name."""


class Counter(Family[prometheus_client.Counter]):
    """A number that only rises."""

    type = "counter"
    suffix = "_total"

    def gathered(self, *labels: str) -> "GatheredCounter":
        """Return the series with these values of its labels. Only the event loop may change it."""
        return self._gather(labels, GatheredCounter)

    def _create(self) -> prometheus_client.Counter:
        return prometheus_client.Counter(self.name, self.text, self.label_names, registry=REGISTRY)


class Gauge(Family["WithdrawableGauge"]):
    """A number that rises and falls."""

    type = "gauge"

    def __init__(
        self,
        name: str,
        text: str,
        labels: Labels = (),
        *,
        merge: Callable[[Iterable[float]], float] = sum,
        exposed: bool = True,
    ) -> None:
        """Define a gauge of which the exposition shows the sum over all workers, or what `merge` makes of them."""
        super().__init__(name, text, labels, exposed=exposed)
        self.merge = merge

    def _create(self) -> "WithdrawableGauge":
        return WithdrawableGauge(self.name, self.text, self.label_names, registry=REGISTRY, multiprocess_mode="liveall")


class WithdrawableGauge(prometheus_client.Gauge):
    """A gauge that can be withdrawn: the library cannot remove a series that several workers share."""

    def withdraw(self) -> None:
        """Leave the series out of the exposition until it is set again."""
        self.set(math.nan)


class Histogram(Family["_Histogram"]):
    """Counts of observations by size."""

    type = "histogram"

    def __init__(self, name: str, text: str, labels: Labels, buckets: Sequence[float]) -> None:
        """Define a histogram; `buckets` are the upper bounds, ascending, without infinity."""
        super().__init__(name, text, labels)
        self.buckets = tuple(map(float, buckets))

    def gathered(self, *labels: str) -> "GatheredHistogram":
        """Return the series with these values of its labels. Only the event loop may change it."""
        return self._gather(labels, lambda metric: GatheredHistogram(metric, self.buckets))

    def _create(self) -> "_Histogram":
        return _Histogram(self.name, self.text, self.label_names, registry=REGISTRY, buckets=self.buckets)


class _Histogram(prometheus_client.Histogram):
    """A histogram that takes many observations at once."""

    def add(self, counts: Iterable[int], total: float) -> None:
        """Add observations: how many in each bucket, the infinite one included, and their sum."""
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)
        self._sum.inc(total)


class GatheredCounter:
    """A counter that gathers its increments. Belongs to the event loop."""

    __slots__ = ("_gathered", "_metric")

    def __init__(self, metric: prometheus_client.Counter) -> None:
        self._metric, self._gathered = metric, 0.0

    def inc(self, by: float = 1.0) -> None:
        """Add to the counter."""
        self._gathered += by

    def flush(self) -> None:
        """Hand the gathered increments to the library."""
        if self._gathered:
            self._metric.inc(self._gathered)
            self._gathered = 0.0


class GatheredHistogram:
    """A histogram that gathers its observations. Belongs to the event loop."""

    __slots__ = ("_bounds", "_counts", "_metric", "_sum")

    def __init__(self, metric: _Histogram, bounds: tuple[float, ...]) -> None:
        self._metric, self._bounds = metric, bounds
        self._counts, self._sum = [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Add an observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def observe_traced(self, value: float, trace_id: str) -> None:
        """Add an observation and make it the exemplar of its bucket. The library keeps none for several workers."""
        self._metric.observe(value, {"trace_id": trace_id})

    def flush(self) -> None:
        """Hand the gathered observations to the library."""
        if any(self._counts):
            self._metric.add(self._counts, self._sum)
            self._counts, self._sum = [0] * len(self._counts), 0.0


def flush() -> None:
    """Hand all gathered changes to the library. Call it in the event loop."""
    for family in FAMILIES.values():
        family.flush()
