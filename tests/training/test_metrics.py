"""The figures on the cards are what their names say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training import metrics as evaluate


def test_accuracy_has_wilsons_interval() -> None:
    predicted = np.zeros(1000, np.int64)
    labels = np.array([0] * 996 + [1] * 4)
    figure = evaluate.accuracy(predicted, labels, "a test")
    assert figure.value == 0.996
    assert figure.low == pytest.approx(0.98979, abs=1e-4)
    assert figure.high == pytest.approx(0.99844, abs=1e-4)


def test_area_under_roc_counts_the_pairs_in_order() -> None:
    scores = np.array([0.1, 0.4, 0.35, 0.8])
    assert evaluate.area_under_roc(scores, np.array([0, 0, 1, 1])) == 0.75
    assert evaluate.area_under_roc(np.full(4, 0.5), np.array([0, 0, 1, 1])) == 0.5


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=2, max_size=60))
def test_area_under_roc_is_mann_whitneys_u(rows: list[tuple[float, int]]) -> None:
    scores, labels = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    if 0 < labels.sum() < len(labels):
        u = stats.mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
        expected = u / (labels.sum() * (1 - labels).sum())
        assert evaluate.area_under_roc(scores, labels) == pytest.approx(expected)


def test_calibration_error_is_the_gap_between_promise_and_outcome() -> None:
    confidence = np.array([0.95] * 100 + [0.65] * 100)
    right = np.array([True] * 90 + [False] * 10 + [True] * 65 + [False] * 35)
    assert evaluate.calibration_error(confidence, right) == pytest.approx(0.025)
    assert evaluate.calibration_error(np.ones(10), np.ones(10, bool)) == 0


def test_log_loss_is_that_of_the_true_class() -> None:
    assert evaluate.log_loss(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1])) == pytest.approx(
        -(np.log(0.5) + np.log(0.75)) / 2
    )


def test_bootstrap_brackets_the_mean() -> None:
    values = np.random.default_rng(0).normal(3, 1, 400)
    figure = evaluate.bootstrap(lambda x: float(x.mean()), values, how="a test")
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < figure.value < figure.high
    assert figure.high - figure.low == pytest.approx(2 * 1.96 / 20, rel=0.2)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_fit_temperature_finds_what_logits_were_multiplied_with(temperature: float) -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 2, (20_000, 4))
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (weights.cumsum(1) > generator.random((20_000, 1))).argmax(1)
    assert evaluate.fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.05)
