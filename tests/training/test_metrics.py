"""Figures, intervals and distributions are what their names say."""

import numpy as np
import pytest

from training import metrics


def test_a_proportion_has_wilsons_interval() -> None:
    figure = metrics.proportion(np.array([True] * 996 + [False] * 4), "a test")
    assert figure.value == 0.996
    assert figure.low == pytest.approx(0.98979, abs=1e-4)
    assert figure.high == pytest.approx(0.99844, abs=1e-4)


def test_calibration_error_is_the_gap_between_confidence_and_outcome() -> None:
    confidence = np.array([0.95] * 100 + [0.65] * 100)
    hits = np.array([True] * 90 + [False] * 10 + [True] * 65 + [False] * 35)
    assert metrics.calibration_error(confidence, hits) == pytest.approx(0.025)
    assert metrics.calibration_error(np.ones(10), np.ones(10, bool)) == 0


def test_a_calibration_figure_says_what_chance_explains() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 2000)
    calibrated = generator.random(2000) < confidence
    figure = metrics.calibration_figure(confidence, calibrated, "a test")
    by_chance = float(figure.how.split("up to ")[1].split(" ")[0])
    assert figure.value < 1.5 * by_chance
    assert metrics.calibration_figure(confidence, np.ones(2000, bool), "a test").value > 3 * by_chance


def test_row_losses_are_those_of_the_true_class() -> None:
    losses = metrics.row_losses(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1]))
    assert losses == pytest.approx(-np.log([0.5, 0.75]))


def test_the_bootstrap_interval_of_a_mean_is_the_normal_one() -> None:
    figure = metrics.mean(np.random.default_rng(0).normal(3, 1, 400), how="a test")
    assert figure.low is not None
    assert figure.high is not None
    assert figure.low < figure.value < figure.high
    assert figure.high - figure.low == pytest.approx(2 * 1.96 / 20, rel=0.2)


def test_pairing_rows_narrows_the_interval_of_a_difference() -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(0, 1, 500)
    candidate = reference + 0.1 + generator.normal(0, 0.01, 500)
    difference = metrics.paired_difference(candidate, reference, "a test")
    assert difference.low is not None
    assert difference.low > 0.09
    unpaired = metrics.paired_difference(generator.permutation(candidate), reference, "a test")
    assert unpaired.low is not None
    assert unpaired.low < 0.05


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_fit_temperature_finds_the_factor_of_the_logits(temperature: float) -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 2, (20_000, 4))
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (weights.cumsum(1) > generator.random((20_000, 1))).argmax(1)
    assert metrics.fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.05)


def test_few_different_values_have_a_bin_each() -> None:
    codes = np.array([1, 1, 2, 4, 4, 4, np.nan, 4], np.float32)
    found = metrics.measure_distributions({"code": codes}, "counted")["code"]
    assert (found.edges, found.shares, found.rows) == ((1.5, 3.0), (0.25, 0.125, 0.5, 0.125), 8)


def test_many_values_are_divided_at_their_deciles() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1000))
    found = metrics.measure_distributions({"value": values}, "counted")["value"]
    assert found.shares == (*[0.1] * 10, 0.0)


def test_a_value_of_many_rows_is_in_one_bin() -> None:
    values = np.concatenate([np.zeros(350), np.arange(1, 651)])
    found = metrics.measure_distributions({"value": values}, "counted")["value"]
    assert found.edges[0] == 0
    assert found.shares == pytest.approx((0.35, 0.05, *[0.1] * 6, 0.0), abs=2e-3)
