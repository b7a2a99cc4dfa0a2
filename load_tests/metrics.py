"""Read `/metrics` of a server, and compare its histograms with the times that a client has measured."""

import math
from collections import defaultdict
from dataclasses import dataclass

import httpx
import numpy as np
import numpy.typing as npt
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from load_tests.processes import ServerError


@dataclass(frozen=True)
class Histogram:
    """A histogram of Prometheus, summed over some series."""

    buckets: dict[float, float]
    """The number of values up to each upper bound; the last bound is infinity."""
    sum: float

    @property
    def count(self) -> float:
        """The number of values."""
        return self.buckets.get(math.inf, 0.0)

    @property
    def mean(self) -> float:
        """The mean; NaN without values."""
        return self.sum / self.count if self.count else math.nan

    def since(self, earlier: "Histogram") -> "Histogram":
        """Return the histogram of the values since an earlier state."""
        buckets = {bound: count - earlier.buckets.get(bound, 0.0) for bound, count in self.buckets.items()}
        return Histogram(buckets, self.sum - earlier.sum)

    def quantile(self, share: float) -> tuple[float, float]:
        """Return the bounds of the bucket that contains a quantile."""
        below = 0.0
        for bound, count in sorted(self.buckets.items()):
            if count >= share * self.count:
                return below, bound
            below = bound
        raise ValueError("a histogram without values has no quantiles")

    def apart(self, seen: npt.NDArray[np.float64], most: float = 0.99) -> float:
        """Return by how much the client's values exceed this histogram, at the quantile where that is most.

        If the share s of the histogram's values is at most a bound b, then b is the quantile s of the histogram. The
        client's quantile s is compared with it. The result is the largest difference, in the unit of the histogram.

        Args:
            seen: the client's values, at least one.
            most: the highest quantile to compare; above it, a few values decide.
        """
        shares = {bound: count / self.count for bound, count in self.buckets.items() if math.isfinite(bound)}
        return max(
            (float(np.quantile(seen, share)) - bound for bound, share in shares.items() if 0 < share <= most),
            default=0.0,
        )


def histogram(url: str, name: str, **labels: str) -> Histogram:
    """Return the histogram `name` of the server at `url`, summed over all series with these labels.

    Raises:
        ServerError: it cannot be reached.
    """
    samples = [sample for sample in _samples(url, name) if labels.items() <= sample.labels.items()]
    buckets: defaultdict[float, float] = defaultdict(float)
    for sample in samples:
        if sample.name == f"{name}_bucket":
            buckets[float(sample.labels["le"])] += sample.value
    return Histogram(dict(buckets), sum(sample.value for sample in samples if sample.name == f"{name}_sum"))


def total(url: str, name: str) -> float:
    """Return the gauge `name` of the server at `url`, summed over all series.

    Raises:
        ServerError: it cannot be reached, or has no such gauge.
    """
    samples = _samples(url, name)
    if not samples:
        raise ServerError(f"/metrics has no {name}")
    return sum(sample.value for sample in samples)


def _samples(url: str, family: str) -> list[Sample]:
    try:
        text = httpx.get(f"{url}/metrics", timeout=10).text
    except httpx.TransportError as error:
        raise ServerError(f"/metrics: {error}") from error
    return [sample for each in text_string_to_metric_families(text) if each.name == family for sample in each.samples]
