"""How often a version ran each batch size and how long that took, for V2's statistics; summed up for Prometheus."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import add

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from service.observability.board import BOARD
from service.observability.ledger import Labels, Row
from service.observability.series import Family, PerWorker

STAGES = ("input", "infer", "output")
"""Of a run: to stack the inputs of its requests, to compute, to hand the outputs out."""


@dataclass(slots=True)
class BatchSize:
    """The runs of one batch size, in all workers."""

    runs: int = 0
    seconds: tuple[float, ...] = (0.0,) * len(STAGES)
    """In total, of each stage."""
    last_run: float = 0.0
    """Unix time in seconds of the last run of a living worker; 0 for none."""


class Batches(Family):
    """The runs of versions, by their labels and the number of rows."""

    def labels(self, *labels: str) -> "Runs":
        return Runs(self._place(labels, 2 + len(STAGES), 1 + len(STAGES)))

    def metric(self, series: Mapping[Labels, PerWorker]) -> Metric:
        """Return the seconds of each stage, over all batch sizes."""
        totals: dict[Labels, list[float]] = {}
        for (*labels, _rows), workers in series.items():
            seconds = totals.setdefault(tuple(labels), [0.0] * len(STAGES))
            for numbers in workers:
                for stage in range(len(STAGES)):
                    seconds[stage] += numbers[1 + stage]
        metric = CounterMetricFamily(self.name, self.text, labels=(*self.label_names[:-1], "stage"))
        for version, seconds in totals.items():
            for name, total in zip(STAGES, seconds, strict=True):
                metric.add_metric((*version, name), total)
        return metric

    def sizes(self, rows: Iterable[Row]) -> dict[Labels, dict[int, BatchSize]]:
        """Return the runs of every version, by its labels and by batch size in ascending order.

        Args:
            rows: of all workers.
        """
        found: dict[Labels, dict[int, BatchSize]] = {}
        for _, (*labels, size), (runs, *numbers) in (row for row in rows if row[0] == self.name):
            total = found.setdefault(tuple(labels), {}).setdefault(int(size), BatchSize())
            seconds, last_run = numbers[: len(STAGES)], numbers[len(STAGES) :]  # a dead worker has no last run
            total.runs += int(runs)
            total.seconds = tuple(map(add, total.seconds, seconds))
            total.last_run = max([total.last_run, *last_run])
        return {labels: dict(sorted(sizes.items())) for labels, sizes in found.items()}


class Runs:
    """The runs of one version and batch size in this worker; one thread at a time changes them."""

    __slots__ = ("_numbers", "_place")

    def __init__(self, place: int) -> None:
        self._numbers, self._place = BOARD.numbers, place

    def add(self, *seconds: float) -> None:
        """Count a run that has just ended, with the seconds of each stage."""
        numbers, place = self._numbers, self._place
        numbers[place] += 1.0
        for stage, each in enumerate(seconds, 1):
            numbers[place + stage] += each
        numbers[place + 1 + len(STAGES)] = time.time()
