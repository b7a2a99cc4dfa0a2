"""The server's histograms: what came between two looks, and how far a client's figures are from them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.metrics import Histogram


def histogram(values: np.ndarray, bounds: tuple[float, ...] = (0.005, 0.01, 0.025, 0.05, 0.1, math.inf)) -> Histogram:
    return Histogram({bound: float((values <= bound).sum()) for bound in bounds}, float(values.sum()))


def test_a_histogram_between_two_scrapes_is_their_difference() -> None:
    early, late = np.array([0.004, 0.03]), np.array([0.02] * 98 + [0.04] * 2)
    between = histogram(np.concatenate([early, late])).since(histogram(early))
    assert between.buckets == histogram(late).buckets
    assert between.count == 100
    assert between.mean == pytest.approx(late.mean())
    assert between.quantile(0.5) == (0.01, 0.025)
    assert between.quantile(0.99) == (0.025, 0.05)


@given(shift=st.floats(0, 0.02), seed=st.integers(0, 100))
def test_the_delay_of_a_client_is_found_in_buckets(shift: float, seed: int) -> None:
    values = np.random.default_rng(seed).gamma(2, 0.01, 5000)
    assert histogram(values).apart(values + shift) == pytest.approx(shift, abs=0.003)
