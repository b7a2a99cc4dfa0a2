"""The metrics of all workers, read for Prometheus and for V2's statistics.

Reading takes milliseconds, so it happens in a thread of its own: neither requests nor loads wait for it.
"""

import asyncio
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import Metric, values
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from service import machine
from service.observability import gpus, metrics
from service.observability.multiprocess import SharedFolder, Worker
from service.observability.series import FAMILIES, REGISTRY, Counter, Family, Gauge, Histogram, Labels, flush

TEXT, OPENMETRICS = MEDIA_TYPES = ("text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0")
"""The exposition formats, the preferred one first."""

FLUSH_SECONDS = 0.5
"""Time between flushes where other workers read this worker's metrics."""

ALONE = "0"
"""The name of a single worker."""

T = TypeVar("T")

_shared: SharedFolder | None = None
"""Where the metrics of several workers are."""

_THREAD = ThreadPoolExecutor(1, thread_name_prefix="metrics")


def share(folder: Path, workers: int) -> None:
    """Decide where prometheus_client keeps this process's metrics. Call it before any series is made.

    Args:
        folder: shared by the workers of a server.
        workers: their number. A single worker keeps its metrics in memory, with exemplars.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    global _shared
    if workers > 1:
        _shared = SharedFolder(folder / "metrics")
        _shared.join()
    else:
        values.ValueClass = values.MutexValue  # BentoML may have asked for its multiprocess mode


async def keep_flushed() -> None:
    """Flush this worker's metrics twice a second, so that other workers can read them, until cancelled."""
    try:
        while True:
            flush()
            await asyncio.sleep(FLUSH_SECONDS)
    finally:
        flush()


async def read_metrics(read: Callable[[], T]) -> T:
    """Flush this worker's metrics and return the result of `read`, called in the thread that reads metrics."""
    flush()
    return await asyncio.get_running_loop().run_in_executor(_THREAD, read)


def exposition(media_type: str) -> tuple[bytes, str]:
    """Return the metrics of all workers in an exposition format, and the full media type of the format.

    Args:
        media_type: one of `MEDIA_TYPES`. Only OpenMetrics has exemplars.

    Raises:
        OSError: the shared folder cannot be read.
    """
    encode, full_media_type = choose_encoder(media_type)
    return encode(_Exposed()), full_media_type


class _Exposed(Collector):
    """What Prometheus gets: the series of all workers, and the resources that workers and GPUs use at this moment."""

    def collect(self) -> Iterator[Metric]:
        for family, metric in _collected():
            if family.exposed:
                yield _summed(family, metric) if family.summed_label else metric
        workers = _workers()
        usage: dict[Labels, machine.Usage] = {}
        for worker in workers:
            with suppress(OSError):  # it has just ended
                usage[worker.name,] = machine.usage(worker.pid)
        yield metrics.MEMORY.exposed_with({name: each.resident for name, each in usage.items()})
        yield metrics.CPU.exposed_with({name: each.cpu_seconds for name, each in usage.items()})
        yield from (metric for metric in gpus.metrics(workers) if metric.samples)


class Reading:
    """The counters, gauges and sums of histograms of all workers at one moment."""

    def __init__(self) -> None:
        """Read them. Takes milliseconds.

        Raises:
            OSError: the shared folder cannot be read.
        """
        self._values: dict[tuple[str, Labels], float] = {}
        for family, metric in _collected():
            names = family.label_names
            for sample in metric.samples:
                if not sample.name.endswith("_bucket"):
                    self._values[sample.name, tuple(sample.labels[name] for name in names)] = sample.value

    def counter(self, family: Counter, *labels: str) -> float:
        """Return the value of a counter, 0 without one."""
        return self._values.get((f"{family.name}_total", labels), 0.0)

    def gauge(self, family: Gauge, *labels: str) -> float:
        """Return the value of a gauge, 0 without one."""
        return self._values.get((family.name, labels), 0.0)

    def histogram(self, family: Histogram, *labels: str) -> tuple[int, float]:
        """Return the number of observations of a histogram, and their sum."""
        count, total = (self._values.get((f"{family.name}{part}", labels), 0.0) for part in ("_count", "_sum"))
        return int(count), total

    def last_labels(self, family: Counter, *labels: str) -> list[str]:
        """Return the values of the last label of the counters whose other labels are `labels`."""
        return [of[-1] for name, of in self._values if name == f"{family.name}_total" and of[:-1] == labels]


def _workers() -> list[Worker]:
    return [Worker(ALONE, os.getpid())] if _shared is None else _shared.workers()


def _collected() -> Iterator[tuple[Family[Any], Metric]]:
    """Yield the families of all workers, in the order of their definition."""
    collector = REGISTRY if _shared is None else _shared.collector()
    living = {worker.name for worker in _workers()}
    found = {metric.name: metric for metric in collector.collect()}
    for name, family in FAMILIES.items():
        if (metric := found.get(name)) is not None:
            yield family, _merged(family, metric, living) if isinstance(family, Gauge) else metric


def _merged(gauge: Gauge, metric: Metric, living: set[str]) -> Metric:
    """Return a gauge over the living workers, without the series that are withdrawn."""
    workers: defaultdict[Labels, list[float]] = defaultdict(list)
    for sample in metric.samples:
        if not math.isnan(sample.value) and sample.labels.get("pid", ALONE) in living:
            workers[tuple(sample.labels[name] for name in gauge.label_names)].append(sample.value)
    return gauge.exposed_with({labels: gauge.merge(numbers) for labels, numbers in workers.items()})


def _summed(family: Family[Any], metric: Metric) -> Metric:
    """Return a counter, summed over one of its labels."""
    names = [name for name in family.label_names if name != family.summed_label]
    totals: defaultdict[Labels, float] = defaultdict(float)
    for sample in metric.samples:
        totals[tuple(sample.labels[name] for name in names)] += sample.value
    return family.exposed_with(totals)
