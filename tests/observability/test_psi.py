"""How rows are sorted into bins, and how far some are from what is usual."""

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.observability.psi import LEAST_SHARE, MOST_BINS, count_by_bin, stability_index

EDGES = st.lists(st.floats(-1e6, 1e6), unique=True, max_size=MOST_BINS - 2).map(sorted)
VALUES = st.lists(st.floats(), max_size=50)
PAIRS = st.integers(1, MOST_BINS).flatmap(
    lambda bins: st.tuples(*[st.lists(st.integers(0, 1000), min_size=bins, max_size=bins).filter(any)] * 2)
)


@given(EDGES, VALUES)
def test_a_row_is_in_the_first_bin_whose_edge_is_not_below_it(edges: list[float], values: list[float]) -> None:
    expected = [0] * (len(edges) + 2)
    for value in values:
        above = [number for number, edge in enumerate(edges) if value <= edge]
        expected[-1 if math.isnan(value) else above[0] if above else len(edges)] += 1
    assert count_by_bin(np.array(values), edges).tolist() == expected


def test_codes_and_counts_are_sorted_too() -> None:
    assert count_by_bin(np.array([0, 9, 9, 4], np.int64), (0.5, 4.0)).tolist() == [1, 1, 2, 0]


def test_the_index_of_a_case_that_is_worked_out_by_hand() -> None:
    # (0.2 - 0.5) ln(0.2 / 0.5) + (0.3 - 0.3) ln 1 + (0.5 - 0.2) ln(0.5 / 0.2) = 2 * 0.3 * 0.916291
    assert stability_index((0.5, 0.3, 0.2), (20, 30, 50)) == pytest.approx(0.549774, abs=1e-6)


@given(PAIRS)
def test_it_is_never_negative_and_the_same_from_either_side(pair: tuple[list[int], list[int]]) -> None:
    one, other = (np.array(counts, np.float64) for counts in pair)
    index = stability_index(one / one.sum(), other)
    assert 0 <= index < math.inf
    assert index == pytest.approx(stability_index(other / other.sum(), one), abs=1e-12)


@given(PAIRS, st.integers(1, 1000))
def test_it_is_zero_for_what_is_usual_however_many_rows_there_are(
    pair: tuple[list[int], list[int]], times: int
) -> None:
    counts = np.array(pair[0], np.float64)
    assert stability_index(counts / counts.sum(), counts * times) == pytest.approx(0, abs=1e-12)


@given(PAIRS)
def test_it_grows_with_the_share_of_other_rows(pair: tuple[list[int], list[int]]) -> None:
    usual, other = (np.maximum(counts, 1) / np.maximum(counts, 1).sum() for counts in pair)
    mixed = [stability_index(usual, (1 - part) * usual + part * other) for part in (0, 0.25, 0.5, 0.75, 1)]
    assert all(after >= before - 1e-12 for before, after in pairwise(mixed))


def test_an_empty_bin_counts_as_a_very_small_one() -> None:
    expected = -0.5 * math.log(0.5) + (0.5 - LEAST_SHARE) * math.log(0.5 / LEAST_SHARE)
    assert stability_index((1, 0), (10, 10)) == pytest.approx(expected)
    assert stability_index((1, 0), (10, 0)) == 0


def rows(seed: int, count: int, bins: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(seed).multinomial(count, [1 / bins] * bins)


@pytest.mark.parametrize(("bins", "count"), [(10, 500), (10, 4000), (2, 500)])
def test_chance_alone_comes_to_one_in_as_many_rows_for_each_further_bin(bins: int, count: int) -> None:
    found = [stability_index([1 / bins] * bins, rows(seed, count, bins)) for seed in range(2000)]
    assert np.mean(found) == pytest.approx((bins - 1) / count, rel=0.1)
    assert np.quantile(found, 0.999) < 0.1
