"""How far what a version is asked, and what it says, has drifted from what it was made from: a gauge of each feature.

It is the population stability index of the rows that all workers have seen lately. Each keeps on the board what is
usual, and counts of what it has seen; these are halved again and again, so that what is long ago fades. What a dead
worker has seen goes with it.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from service.observability.board import BOARD
from service.observability.ledger import Labels
from service.observability.psi import MOST_BINS, stability_index
from service.observability.series import Family, PerWorker

WINDOW = 4096
"""Rows that a worker counts before it halves them: half as many weigh as much as all that came before."""

LEAST_ROWS = 500
"""With fewer there is no index: with ten bins it would come to 0.02 by chance, and now and then to more than 0.05."""


class Drift(Family):
    """The index of features, by labels; there is none until enough rows have been seen."""

    def labels(self, *labels: str) -> "Seen":
        return Seen(self._place(labels, 2 * MOST_BINS, 0, math.nan))

    def metric(self, series: Mapping[Labels, PerWorker]) -> Metric:
        metric = GaugeMetricFamily(self.name, self.text, labels=self.label_names)
        for labels, workers in series.items():
            told = [(usual, counts) for usual, counts in map(_parts, workers) if not np.isnan(usual).any()]
            # While another version takes the place of one, workers may differ in what is usual.
            alike = [counts for usual, counts in told if np.array_equal(usual, told[0][0])]
            if np.sum(alike) >= LEAST_ROWS:
                metric.add_metric(labels, stability_index(told[0][0], np.sum(alike, axis=0)))
        return metric


class Seen:
    """What this worker has seen of a feature of a version; one thread changes it."""

    __slots__ = ("_counts", "_usual")

    def __init__(self, place: int) -> None:
        self._usual, self._counts = _parts(BOARD.numbers[place : place + 2 * MOST_BINS])

    def begin(self, usual: Sequence[float]) -> None:
        """Nothing has been seen yet; `usual` are the shares of the bins."""
        self._counts[:] = 0
        self._usual[:] = (*usual, *[0.0] * (MOST_BINS - len(usual)))

    def add(self, counts: npt.NDArray[np.int64]) -> None:
        """So many rows have been seen in each bin, `[bins]`."""
        self._counts[: len(counts)] += counts
        if self._counts.sum() >= WINDOW:
            self._counts /= 2

    def end(self) -> None:
        """Takes the index away."""
        self._usual[:] = math.nan


def _parts(numbers: Sequence[float]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """What is usual, and what was seen: views where `numbers` are memory."""
    both = np.asarray(numbers, np.float64)
    return both[:MOST_BINS], both[MOST_BINS:]


DRIFT = Drift(
    "deepserve_drift_index",
    "Population stability index of what a version was asked lately, by feature, against what it was made from",
    ("model", "version", "feature"),
)
