"""The figures and plots of the model cards, each figure with its 95 % interval."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.figure import Figure as Drawing
from scipy import optimize, special, stats

from service.observability.drift import MOST_BINS, count_by_bin
from service.registry.card import Distribution, Figure
from service.tensors import Array

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]

DECILES = np.arange(1, 10) / 10

plt.switch_backend("agg")  # files, never windows


def accuracy(predicted: Labels, labels: Labels, how: str) -> Figure:
    """Share of rows that are right, with Wilson's interval."""
    right = int((predicted == labels).sum())
    interval = stats.binomtest(right, len(labels)).proportion_ci(0.95, "wilson")
    return Figure(value=right / len(labels), low=interval.low, high=interval.high, how=how)


def area_under_roc(scores: Floats, labels: Labels) -> float:
    """Probability that a positive (label 1) scores above a negative one, ties counted half (Mann and Whitney)."""
    ranks = stats.rankdata(scores)
    positives = int(labels.sum())
    negatives = len(labels) - positives
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def calibration_error(confidence: Floats, right: npt.NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error over bins of equal width: mean |accuracy - confidence|, weighted by bin size
    (Guo et al., On Calibration of Modern Neural Networks, 2017).

    Args:
        confidence: the probability that was given to the predicted class, or to class 1.
        right: whether it came true.
    """
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    gap = np.bincount(index, confidence - right, minlength=bins)
    return float(np.abs(gap).sum() / count.sum())


def bootstrap(
    statistic: Callable[..., float], *columns: npt.NDArray[np.generic], how: str, resamples: int = 1000, seed: int = 0
) -> Figure:
    """`statistic(*columns)` with the percentile interval over rows drawn with replacement."""
    generator = np.random.default_rng(seed)
    rows = len(columns[0])
    draws = []
    for _ in range(resamples):
        chosen = generator.integers(rows, size=rows)
        draws.append(statistic(*(column[chosen] for column in columns)))
    low, high = np.quantile(draws, (0.025, 0.975))
    return Figure(value=statistic(*columns), low=float(low), high=float(high), how=how)


def log_loss(probabilities: Floats, labels: Labels) -> float:
    """Mean negative log-likelihood of the true class; `probabilities` is `[n, classes]`."""
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(true, 1e-12)).mean())


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """The temperature that makes `softmax(logits / temperature)` likeliest on held-out rows (Guo et al., 2017).

    Args:
        logits: `[n, classes]`.
        labels: `[n]`.
    """

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / np.exp(log_temperature)
        chosen = np.take_along_axis(scaled, labels[:, None], axis=1)[:, 0]
        return float((special.logsumexp(scaled, axis=1) - chosen).mean())

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def distributions(features: Mapping[str, Array], how: str) -> dict[str, Distribution]:
    """How each feature, `[n]` with NaN for what is not known, is distributed.

    Of few different values each has a bin of its own; else the deciles part them.
    """
    return {name: _distribution(values.astype(np.float64), how) for name, values in features.items()}


def _distribution(values: npt.NDArray[np.float64], how: str) -> Distribution:
    known = values[~np.isnan(values)]
    different = np.unique(known)
    few = len(different) <= MOST_BINS - 1
    parting = (different[:-1] + different[1:]) / 2 if few else np.quantile(known, DECILES)
    edges = tuple(sorted(set(map(_short, parting))))
    shares = tuple(map(_short, count_by_bin(values, edges) / len(values)))
    return Distribution(edges=edges, shares=shares, rows=len(values), how=how)


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def plot_learning_curve(history: Sequence[dict[str, float]], path: Path) -> None:
    """One panel per logged figure, over epochs."""
    names = [name for name in history[-1] if name != "epoch"]
    figure, panels = plt.subplots(1, len(names), figsize=(3.2 * len(names), 2.6), squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        rows = [row for row in history if name in row]
        panel.plot([row["epoch"] for row in rows], [row[name] for row in rows], marker=".")
        panel.set(title=name.replace("_", " "), xlabel="epoch")
        panel.grid(alpha=0.3)
    _write(figure, path)


def plot_confusion(predicted: Labels, labels: Labels, classes: Sequence[str], path: Path) -> None:
    """Counts of predicted class by true class; the shade leaves the diagonal out so that errors show."""
    size = len(classes)
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    errors = counts * (1 - np.eye(size, dtype=np.int64))
    figure, panel = plt.subplots(figsize=(1.6 + 0.5 * size, 1.4 + 0.5 * size))
    panel.imshow(errors, cmap="Reds")
    for true, row in enumerate(counts):
        for guess, count in enumerate(row):
            panel.text(guess, true, str(count), ha="center", va="center", fontsize=8)
    panel.set_xticks(range(size), classes, rotation=45 if max(map(len, classes)) > 2 else 0)
    panel.set_yticks(range(size), classes)
    panel.set(xlabel="predicted", ylabel="true")
    _write(figure, path)


def plot_reliability(confidence: Floats, right: npt.NDArray[np.bool_], path: Path, bins: int = 10) -> None:
    """How often predictions of each confidence come true, beside the diagonal of a calibrated model."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = count > 0
    mean = np.bincount(index, confidence, minlength=bins)[filled] / count[filled]
    share = np.bincount(index, right, minlength=bins)[filled] / count[filled]
    figure, panel = plt.subplots(figsize=(3.6, 3.4))
    panel.plot([0, 1], [0, 1], color="grey", linewidth=1)
    panel.scatter(mean, share, s=15 + 200 * count[filled] / count.sum())
    panel.set(xlabel="probability given", ylabel="share that came true", xlim=(0, 1), ylim=(0, 1))
    panel.grid(alpha=0.3)
    _write(figure, path)


def plot_pictures(
    pictures: npt.NDArray[np.uint8], path: Path, columns: int = 10, titles: Sequence[str] | None = None
) -> None:
    """A grid of grey pictures, uint8 `[n, height, width]`, row by row."""
    rows = -(-len(pictures) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(0.8 * columns, 0.85 * rows), squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for index, (panel, picture) in enumerate(zip(panels.flat, pictures, strict=False)):
        panel.imshow(picture, cmap="gray", vmin=0, vmax=255)
        if titles:
            panel.set_title(titles[index], fontsize=7, pad=2)
    _write(figure, path)


def _write(figure: Drawing, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
