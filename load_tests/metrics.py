"""What the server tells of itself at `/metrics`, and how far its histograms are from what a client has seen."""

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
    """One of Prometheus, summed over the series that were asked for."""

    buckets: dict[float, float]
    """How many values are at most so large, by upper bound; the last is infinite."""
    sum: float

    @property
    def count(self) -> float:
        """Of all values."""
        return self.buckets.get(math.inf, 0.0)

    @property
    def mean(self) -> float:
        """NaN without values."""
        return self.sum / self.count if self.count else math.nan

    def since(self, earlier: "Histogram") -> "Histogram":
        """The values that came between."""
        buckets = {bound: count - earlier.buckets.get(bound, 0.0) for bound, count in self.buckets.items()}
        return Histogram(buckets, self.sum - earlier.sum)

    def quantile(self, share: float) -> tuple[float, float]:
        """The bounds of the bucket that holds it."""
        below = 0.0
        for bound, count in sorted(self.buckets.items()):
            if count >= share * self.count:
                return below, bound
            below = bound
        raise ValueError("a histogram without values has no quantiles")

    def apart(self, seen: npt.NDArray[np.float64], most: float = 0.99) -> float:
        """How much later the client saw answers than this histogram has them: no less at any share, up to `most`.

        At a bucket's bound b, where the share s of the values is at most b, the client's quantile s would be b too if
        both had seen the same; the largest difference over all bounds, in the histogram's unit.

        Args:
            seen: the client's values, at least one.
            most: beyond this share a handful of values decide.
        """
        shares = {bound: count / self.count for bound, count in self.buckets.items() if math.isfinite(bound)}
        return max(
            (float(np.quantile(seen, share)) - bound for bound, share in shares.items() if 0 < share <= most),
            default=0.0,
        )


def histogram(url: str, name: str, **labels: str) -> Histogram:
    """The histogram `name` of the server at `url`, over all series with these labels.

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
    """The gauge `name` of the server at `url`, over all series.

    Raises:
        ServerError: it cannot be reached, or has no such gauge.
    """
    samples = _samples(url, name)
    if not samples:
        raise ServerError(f"/metrics does not tell {name}")
    return sum(sample.value for sample in samples)


def _samples(url: str, family: str) -> list[Sample]:
    try:
        text = httpx.get(f"{url}/metrics", timeout=10).text
    except httpx.TransportError as error:
        raise ServerError(f"/metrics: {error}") from error
    return [sample for each in text_string_to_metric_families(text) if each.name == family for sample in each.samples]
