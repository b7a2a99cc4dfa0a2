"""The population stability index as the rule for Prometheus defines it, computed from what `/metrics` shows."""

import math
from collections import defaultdict
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families as parse

MIN_SHARE = 1e-4
"""What an empty bin counts as."""

Counts = dict[str, dict[str, float]]
"""By feature and bin."""


def stability_index(expected: Mapping[str, float], counts: Mapping[str, float]) -> float:
    """Sum over all bins of (share - expected) * ln(share / expected)."""
    total = sum(counts.values())
    pairs = [(max(counts[each] / total, MIN_SHARE), max(share, MIN_SHARE)) for each, share in expected.items()]
    return sum((share - usual) * math.log(share / usual) for share, usual in pairs)


def by_bin(text: str, metric: str, model: str, version: str) -> Counts:
    """The samples of a metric of a version in the text of `/metrics`."""
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for family in parse(text):
        for sample in family.samples:
            if sample.name == metric and (sample.labels["model"], sample.labels["version"]) == (model, version):
                found[sample.labels["feature"]][sample.labels["bin"]] = sample.value
    return dict(found)


def rows(text: str, model: str, version: str) -> Counts:
    """The rows that were counted."""
    return by_bin(text, "deepserve_drift_rows_total", model, version)


def indices(before: str, after: str, model: str, version: str) -> dict[str, float]:
    """The index of each feature, of the rows that were counted between two texts of `/metrics`."""
    earlier, later = rows(before, model, version), rows(after, model, version)
    counts = {
        feature: {each: count - earlier.get(feature, {}).get(each, 0.0) for each, count in bins.items()}
        for feature, bins in later.items()
    }
    expected = by_bin(after, "deepserve_drift_expected_share", model, version)
    return {
        feature: stability_index(shares, counts[feature])
        for feature, shares in expected.items()
        if sum(counts[feature].values())
    }
