"""Plots of the model cards: dark text on light ground, counts that can be read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay

from service.tensors import Array

Floats = npt.NDArray[np.floating]
Labels = npt.NDArray[np.int64]

plt.switch_backend("agg")  # files, never windows


def plot_learning_curve(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw one panel for each logged figure over epochs."""
    names = [name for name in history[-1] if name != "epoch"]
    figure, panels = plt.subplots(1, len(names), figsize=(3.2 * len(names), 2.6), squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        rows = [row for row in history if name in row]
        panel.plot([row["epoch"] for row in rows], [row[name] for row in rows], marker=".")
        panel.set(title=name.replace("_", " "), xlabel="epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
    _save(figure, path)


def plot_confusion(predicted: Labels, labels: Labels, classes: Sequence[str], path: Path) -> None:
    """Draw counts of predicted class by true class; errors are shaded, the diagonal is not."""
    size = len(classes)
    figure, panel = plt.subplots(figsize=(1.8 + 0.55 * size, 1.6 + 0.55 * size))
    display = ConfusionMatrixDisplay.from_predictions(
        labels,
        predicted,
        labels=range(size),
        display_labels=classes,
        ax=panel,
        colorbar=False,
        xticks_rotation=45 if max(map(len, classes)) > 2 else 0,
    )
    counts = display.confusion_matrix
    errors = counts * (1 - np.eye(size))
    # Twice the largest count, so that the darkest cell stays light enough for dark text.
    display.im_.set(data=errors, cmap="Oranges", clim=(0, 2 * max(1, errors.max())))
    for text in display.text_.flat:
        text.set(color="black", fontsize=8)
    _save(figure, path)


def plot_reliability(confidence: Floats, hits: npt.NDArray[np.bool_], path: Path, bins: int = 10) -> None:
    """Draw the observed share by predicted probability with Wilson bars, over a histogram of the predictions."""
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    filled = count > 0
    predicted = np.bincount(index, confidence, minlength=bins)[filled] / count[filled]
    observed = np.bincount(index, hits, minlength=bins)[filled] / count[filled]
    error = 1.96 * np.sqrt(observed * (1 - observed) / count[filled])
    figure, (panel, histogram) = plt.subplots(2, 1, figsize=(3.8, 4.6), height_ratios=(3, 1), sharex=True)
    panel.plot([0, 1], [0, 1], color="grey", linewidth=1)
    panel.errorbar(predicted, observed, error, fmt="o", markersize=4, capsize=2)
    panel.set(ylabel="observed share", xlim=(0, 1), ylim=(0, 1))
    panel.grid(alpha=0.3)
    histogram.bar((np.arange(bins) + 0.5) / bins, count, width=0.9 / bins)
    histogram.set(xlabel="predicted probability", ylabel="rows", yscale="log")
    _save(figure, path)


def plot_roc(scores: Floats, labels: Labels, path: Path) -> None:
    """Draw the receiver operating characteristic of class 1."""
    figure, panel = plt.subplots(figsize=(3.8, 3.8))
    RocCurveDisplay.from_predictions(labels, scores, ax=panel, plot_chance_level=True)
    panel.grid(alpha=0.3)
    _save(figure, path)


def plot_images(images: Array, path: Path, columns: int = 10, titles: Sequence[str] | None = None) -> None:
    """Draw a grid of grey images, uint8 `[n, height, width]`, row by row."""
    rows = -(-len(images) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(0.8 * columns, 0.85 * rows), squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for index, (panel, image) in enumerate(zip(panels.flat, images, strict=False)):
        panel.imshow(image, cmap="gray", vmin=0, vmax=255)
        if titles:
            panel.set_title(titles[index], fontsize=7, pad=2)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
