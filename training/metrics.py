"""Figures of the model cards with their 95 % intervals, and distributions of features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from service.observability.drift import MAX_BINS, count_by_bin
from service.registry.card import Distribution, Figure
from service.tensors import Array

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]
Figures = dict[str, Figure]

DECILES = np.arange(1, 10) / 10
RESAMPLES = 1000


@dataclass(frozen=True)
class Measurement:
    """What one graph achieves on the test rows."""

    figures: Figures
    per_row: dict[str, Floats] = field(default_factory=dict)
    """Figure to its value for each test row, float `[n]`: their means are compared in pairs between versions."""
    subgroups: dict[str, Figures] = field(default_factory=dict)


def proportion(hits: npt.NDArray[np.bool_], how: str) -> Figure:
    """Return the share of rows that are true, with Wilson's interval; `hits` is `[n]`."""
    interval = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(0.95, "wilson")
    return Figure(value=float(hits.mean()), low=interval.low, high=interval.high, how=how)


def bootstrap(
    statistic: Callable[..., float], *columns: Array, how: str, resamples: int = RESAMPLES, seed: int = 0
) -> Figure:
    """Return `statistic(*columns)` with the percentile interval over rows drawn with replacement."""
    result = stats.bootstrap(
        (np.arange(len(columns[0])),),
        lambda rows: statistic(*(column[rows] for column in columns)),
        n_resamples=resamples,
        vectorized=False,
        method="percentile",
        batch=50,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Figure(value=statistic(*columns), low=float(result.low), high=float(result.high), how=how)


def mean(values: Floats, how: str) -> Figure:
    """Return the mean of a figure's values for each row, `[n]`, with its bootstrap interval."""
    return bootstrap(lambda drawn: float(drawn.mean()), values.astype(np.float64), how=how)


def row_losses(probabilities: Floats, labels: Labels) -> Floats:
    """Return the negative log-likelihood of each row's true class, `[n]`; `probabilities` is `[n, classes]`."""
    true: Floats = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.maximum(true, 1e-12))


def calibration_error(confidence: Floats, hits: npt.NDArray[np.bool_], bins: int = 10) -> float:
    """Return the expected calibration error over bins of equal width: mean |accuracy - confidence|, weighted by bin
    size (Guo et al., On Calibration of Modern Neural Networks, 2017).

    Args:
        confidence: probability of the predicted class, or of class 1, `[n]`.
        hits: whether it came true, `[n]`.
    """
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(index, confidence - hits, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def calibration_figure(confidence: Floats, hits: npt.NDArray[np.bool_], how: str) -> Figure:
    """Return the calibration error, with its 95 % quantile for a perfectly calibrated model in `how`.

    The error is biased upwards, and a bootstrap interval doubles the bias, so that none is given. Outcomes drawn from
    the probabilities themselves show what chance alone explains (Broecker and Smith, Increasing the Reliability of
    Reliability Diagrams, 2007).
    """
    generator = np.random.default_rng(0)
    chance = [calibration_error(confidence, generator.random(len(confidence)) < confidence) for _ in range(200)]
    note = f"10 bins; perfectly calibrated probabilities show up to {np.quantile(chance, 0.95):.4f} by chance"
    return Figure(value=calibration_error(confidence, hits), how=f"{how}; {note}")


def paired_difference(candidate: Floats, reference: Floats, how: str) -> Figure:
    """Return the mean difference between two models' values on the same rows, with its bootstrap interval."""
    return mean(candidate - reference, how)


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """Return the temperature that makes `softmax(logits / temperature)` likeliest on held-out rows (Guo et al., 2017).

    Args:
        logits: `[n, classes]`.
        labels: `[n]`.
    """

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        chosen = np.take_along_axis(scaled, labels[:, None], axis=1)[:, 0]
        return float((special.logsumexp(scaled, axis=1) - chosen).mean())

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def measure_distributions(features: Mapping[str, Array], how: str) -> dict[str, Distribution]:
    """Return the distribution of each feature, `[n]` with NaN for unknown values.

    Few different values get a bin each; otherwise the deciles are the edges.
    """
    return {name: _distribution(values.astype(np.float64), how) for name, values in features.items()}


def _distribution(values: npt.NDArray[np.float64], how: str) -> Distribution:
    known = values[~np.isnan(values)]
    distinct = np.unique(known)
    few = len(distinct) <= MAX_BINS - 1
    cuts = (distinct[:-1] + distinct[1:]) / 2 if few else np.quantile(known, DECILES)
    edges = tuple(sorted(set(map(_short, cuts))))
    shares = tuple(map(_short, count_by_bin(values, edges) / len(values)))
    return Distribution(edges=edges, shares=shares, rows=len(values), how=how)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
