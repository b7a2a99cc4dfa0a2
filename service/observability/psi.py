"""Numbers sorted into bins, and how far some are from what is usual: training says what is, serving compares.

A feature is a number of each row. Its bins are parted by edges: each holds what is above the edge before it and at most
its own, one more what is above the last edge, and the last one the rows of which the feature is not known.
"""

import numpy as np
import numpy.typing as npt

from service.tensors import Array

MOST_BINS = 16
"""Of a feature, that of what is not known included."""

LEAST_SHARE = 1e-4
"""What an empty bin counts as: else one row in it would be infinitely far."""


def count_by_bin(values: Array, edges: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """How many rows fall into each bin, int64 `[len(edges) + 2]`.

    Args:
        values: of the feature, `[n]`, NaN where it is not known.
        edges: ascending.
    """
    bins = np.searchsorted(edges, values) + np.isnan(values)
    return np.bincount(bins, minlength=np.size(edges) + 2)


def stability_index(usual: npt.ArrayLike, counts: npt.ArrayLike) -> float:
    """The population stability index: the sum over all bins of (share - usual) * ln(share / usual).

    It is 0 where the shares are the usual ones, and never below; by custom less than 0.1 is no drift, more than 0.25 is
    much. By chance alone `n` rows of the usual kind come to about (bins - 1) / n.

    Args:
        usual: the share of each bin, `[bins]`, which together are 1.
        counts: of rows in each bin, `[bins]`, at least one in all.
    """
    found = np.asarray(counts) / np.sum(counts)
    share, expected = np.maximum(found, LEAST_SHARE), np.maximum(usual, LEAST_SHARE)
    return float(((share - expected) * np.log(share / expected)).sum())
