"""Drift: how the requests and predictions of a version are distributed, beside the data that it was made from.

A feature is a number of each row: one that the task computes from the inputs, or the predicted class. Training divides
the values of each feature into bins and writes the share of rows in each bin on the version's card. Serving counts the
rows of a sample of all requests in the same bins. The metrics show both; the rules for Prometheus in deploy/monitoring
compute the population stability index of each feature from them, `deepserve_drift_index`.

The edges of the bins are ascending. A bin holds the values above the edge before it, up to its own edge; two more bins
hold the values above the last edge, and the rows whose value is missing (NaN).
"""

import math
import random
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from service.observability import metrics
from service.tensors import Array, Tensors

PREDICTION = "prediction"
"""The feature that is the predicted class."""

MAX_BINS = 16
"""Bins of a feature at most."""

SAMPLED_PER_SECOND = 5
"""Requests that are sampled a second at most, on average: counting one takes 30 to 80 us, and a multiple of that where
the processor's caches have been used otherwise since the last."""
MEASURED = 64
"""Requests over which the rate of requests is measured."""
MAX_ROWS = 64
"""Rows of a sampled request that are counted at most, spread evenly over the request."""

Bins = tuple[tuple[float, ...], tuple[float, ...]]
"""The edges of the bins of a feature, and the expected share of rows in each bin."""


def count_by_bin(values: Array, edges: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the number of rows in each bin, int64 `[len(edges) + 2]`.

    Args:
        values: of the feature, `[rows]`, NaN where it is missing.
        edges: of the bins, ascending.
    """
    bins = np.searchsorted(edges, values) + np.isnan(values)
    return np.bincount(bins, minlength=np.size(edges) + 2)


class DriftMonitor:
    """Counts the features of one version. Belongs to the event loop."""

    def __init__(
        self,
        model: str,
        version: str,
        bins: Mapping[str, Bins],
        features: Callable[[Tensors], Mapping[str, Array]],
        scores: str | None,
    ) -> None:
        """Prepare to count; nothing is counted before `begin`, or without bins.

        Args:
            model: its name.
            version: its number.
            bins: the bins of the card, by feature.
            features: computes the features of inputs, `[rows]` each.
            scores: the output with the score of each class, `[rows, classes]`, if there is one.
        """
        self._features_of = features
        self._scores = scores
        self._features = {
            name: _FeatureSeries((model, version, name), *edges_and_shares) for name, edges_and_shares in bins.items()
        }
        self._sample = Sample()
        self._left = math.inf
        """Requests up to the next that is sampled."""

    def begin(self) -> None:
        """Start to count: the version serves from now on."""
        for feature in self._features.values():
            feature.expose()
        if self._features:
            self._left = 1

    def end(self) -> None:
        """Stop counting: the version no longer serves."""
        self._left = math.inf
        for feature in self._features.values():
            feature.withdraw()

    def observe(self, inputs: Tensors, outputs: Tensors) -> None:
        """Count a request with `inputs` and `outputs`, `[rows, ...]` each, if it is sampled."""
        self._left -= 1
        if self._left <= 0:
            self._left = self._sample.gap()
            self._count(inputs, outputs)

    def _count(self, inputs: Tensors, outputs: Tensors) -> None:
        rows = len(next(iter(inputs.values())))
        some = slice(None, None, math.ceil(rows / MAX_ROWS))
        found = dict(self._features_of({name: values[some] for name, values in inputs.items()}))
        if self._scores is not None:
            found[PREDICTION] = outputs[self._scores][some].argmax(1)
        for name, values in found.items():
            if name in self._features:
                self._features[name].count(values)


class _FeatureSeries:
    """The series of a feature."""

    def __init__(self, labels: tuple[str, ...], edges: tuple[float, ...], shares: tuple[float, ...]) -> None:
        self._edges, self._shares = np.array(edges), shares
        self._bins = [(*labels, each) for each in (*map(repr, edges), "+Inf", "missing")]
        self._rows = [metrics.DRIFT_ROWS.gathered(*each) for each in self._bins]

    def expose(self) -> None:
        for each, share in zip(self._bins, self._shares, strict=True):
            metrics.DRIFT_EXPECTED_SHARE.labels(*each).set(share)

    def withdraw(self) -> None:
        for each in self._bins:
            metrics.DRIFT_EXPECTED_SHARE.labels(*each).withdraw()

    def count(self, values: Array) -> None:
        for counter, rows in zip(self._rows, count_by_bin(values, self._edges).tolist(), strict=True):
            counter.inc(rows)


class Sample:
    """Samples consecutive requests: each has the same chance, and about `SAMPLED_PER_SECOND` are sampled."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Sample every request until the rate is known; `clock` returns seconds."""
        self._clock = clock
        self._every = 1.0
        """The mean gap between sampled requests."""
        self._passed = 0
        """Requests since `_since`."""
        self._since = clock()

    def gap(self) -> int:
        """Return the number of requests up to the next sampled one; 1 is the very next request."""
        if self._passed >= MEASURED:
            now = self._clock()
            self._every = max(1.0, self._passed / (now - self._since) / SAMPLED_PER_SECOND)
            self._passed, self._since = 0, now
        gap = 1 + int(random.random() * (2 * self._every - 1))
        self._passed += gap
        return gap
