"""Measure a version of `digits` from its graphs: figures, baselines, distributions and plots."""

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn

from service.engine.session import Precision
from service.registry.card import GRAPHS, PREDICTION, Card, Distribution, Figure
from service.tasks.digits import DigitsTask
from service.tensors import TensorSpec
from training import metrics, plots
from training.data.images import MNIST, Labels, Pictures, load_images
from training.digits import photographs, pictures_read
from training.digits.model import SIZE, multiply_adds
from training.digits.pictures_read import Preprocessed
from training.metrics import Figures, Measurement
from training.version import open_session

CLASSES = tuple("0123456789")
PHOTOGRAPH_SEED = 0
AGREEMENT = 5e-4
"""Largest difference from the card: other processors round differently."""

INPUTS = (
    TensorSpec(
        name="pictures",
        dtype="uint8",
        shape=("batch", SIZE, SIZE),
        meaning="grey images, centred and scaled as MNIST's",
        range="0 (background) to 255 (ink)",
    ),
)
OUTPUTS = (
    TensorSpec(
        name="probabilities",
        dtype="float32",
        shape=("batch", 10),
        meaning="probability of each digit",
        range="0 to 1, each row sums to 1",
    ),
)


def measure(directory: Path, precision: Precision, data_dir: Path | None) -> Measurement:
    """Measure a graph of the version in `directory` on MNIST's test split."""
    _, test = load_images(MNIST, data_dir)
    return measure_graph(directory / GRAPHS[precision], test, test)


def measure_graph(graph: Path, test: Pictures, photographed: Pictures) -> Measurement:
    """Measure on the `test` images, and on simulated photographs of `photographed`."""
    probabilities = read(graph, test)
    hits = probabilities.argmax(1) == test.labels
    losses = metrics.row_losses(probabilities, test.labels)
    how = f"{len(test):,} MNIST test images, through the ONNX graph"
    preprocessed = _preprocessed_photographs(photographed.pictures.tobytes())
    photograph_hits = pictures_read.read(graph, preprocessed) == photographed.labels
    photograph_how = (
        f"{len(photographed):,} MNIST test digits drawn into simulated photographs (training.digits.photographs, seed "
        f"{PHOTOGRAPH_SEED}), through picture decoding and the ONNX graph"
    )
    return Measurement(
        figures={
            "accuracy": metrics.proportion(hits, how),
            "log_loss": metrics.mean(losses, how),
            "calibration_error": metrics.calibration_figure(probabilities.max(1), hits, how),
            "photograph_accuracy": metrics.proportion(photograph_hits, photograph_how),
        },
        per_row={
            "accuracy": hits.astype(np.float64),
            "log_loss": losses,
            "photograph_accuracy": photograph_hits.astype(np.float64),
        },
        subgroups={
            f"digit {digit}": {"accuracy": metrics.proportion(hits[test.labels == digit], how)} for digit in range(10)
        },
    )


@cache
def _preprocessed_photographs(digits: bytes) -> list[Preprocessed | None]:
    """Return what the service makes of photographs of the digits before it runs a graph."""
    pictures = np.frombuffer(digits, np.uint8).reshape(-1, SIZE, SIZE)
    return pictures_read.preprocess(photographs.photographs(pictures, PHOTOGRAPH_SEED), "photographs")


def size_figures(network: nn.Module) -> Figures:
    """Return the network's size and cost."""
    weights = sum(parameter.numel() for parameter in network.parameters())
    return {
        "weights": Figure(value=weights, how="parameters of the served network"),
        "multiply_adds": Figure(value=multiply_adds(network), how="one image; the classic network needs 12.0 million"),
    }


def measure_baselines(directory: Path, data_dir: Path | None) -> dict[str, Figures]:
    """Measure simpler models, trained on the training rows of the version in `directory`."""
    published, test = load_images(MNIST, data_dir)
    return fit_baselines(_training_rows(published, Card.read(directory)), test)


def fit_baselines(training: Pictures, test: Pictures) -> dict[str, Figures]:
    """Measure logistic regression on pixels."""
    flat = [part.pictures.reshape(len(part), -1).astype(np.float32) / 255 for part in (training, test)]
    regression = LogisticRegression(max_iter=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # more iterations overfit
        regression.fit(flat[0], training.labels)
    probabilities = regression.predict_proba(flat[1])
    how = f"logistic regression on the pixels of {len(training):,} training images, {len(test):,} MNIST test images"
    return {
        "logistic regression": {
            "accuracy": metrics.proportion(probabilities.argmax(1) == test.labels, how),
            "log_loss": metrics.mean(metrics.row_losses(probabilities, test.labels), how),
        }
    }


def measure_distributions(directory: Path, data_dir: Path | None) -> dict[str, Distribution]:
    """Measure the distributions of the version's training rows."""
    published, _ = load_images(MNIST, data_dir)
    return distributions(directory / GRAPHS["float32"], _training_rows(published, Card.read(directory)))


def distributions(graph: Path, training: Pictures) -> dict[str, Distribution]:
    """Return the distributions of the features of the training images and of the graph's predictions."""
    features = DigitsTask.features({"pictures": training.pictures})
    how = f"{len(training):,} pictures of the training split"
    return metrics.measure_distributions({**features, PREDICTION: read(graph, training).argmax(1)}, how)


def _training_rows(published: Pictures, card: Card) -> Pictures:
    return published.split(card.training.hyperparameters["held_out"], card.training.seed)[0]


def plot(graph: Path, test: Pictures, history: Sequence[dict[str, float]]) -> None:
    """Draw learning curve, confusion matrix, reliability diagram and mistakes beside the graph."""
    directory = graph.parent
    probabilities = read(graph, test)
    predicted: Labels = probabilities.argmax(1)
    hits = predicted == test.labels
    if history:
        plots.plot_learning_curve(history, directory / "learning_curve.png")
    plots.plot_confusion(predicted, test.labels, CLASSES, directory / "confusion_matrix.png")
    plots.plot_reliability(probabilities.max(1), hits, directory / "reliability.png")
    wrong = np.flatnonzero(~hits)[:40]
    titles = [f"{test.labels[row]}, read {predicted[row]}" for row in wrong]
    plots.plot_images(test.pictures[wrong], directory / "mistakes.png", titles=titles)


def read(graph: Path, pictures: Pictures) -> npt.NDArray[np.float32]:
    """Return the graph's probabilities, float32 `[n, 10]`."""
    (probabilities,) = open_session(graph).run(None, {"pictures": pictures.pictures})
    found: npt.NDArray[np.float32] = probabilities
    return found
