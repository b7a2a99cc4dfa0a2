"""What all versions of `digits` have in common: how the graph is written and proved, its figures, plots and card."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from service.engine.card import Card, Figure, TensorSpec, Training
from training import evaluate, export, photographs
from training.datasets import MNIST, Labels, Pictures

DIGITS = tuple("0123456789")
PHOTOGRAPH_SEED = 0


def write_graph(network: nn.Module, directory: Path, test: Pictures) -> Path:
    """The network's graph, proved at many batch sizes, with golden cases beside it."""
    names, free = ("probabilities",), {"pictures": {0: "batch"}}
    graph = export.write_graph(network, directory, {"pictures": test.pictures[:2]}, names, free)
    export.check_parity(network, graph, ({"pictures": test.pictures[:size]} for size in (1, 2, 7, 64, 1000)))
    export.write_golden(network, directory, {"pictures": test.pictures[:32]}, names)
    return graph


def measure(graph: Path, test: Pictures, drawn: Pictures) -> dict[str, Figure]:
    """The figures of the card: on the `test` pictures as they are, and on the `drawn` ones drawn into photographs."""
    probabilities = _read(graph, test)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    framed, found = photographs.read_back(drawn.pictures, PHOTOGRAPH_SEED)
    read = np.where(found, _read(graph, Pictures(framed, drawn.labels)).argmax(1), -1)
    how = f"{len(test):,} MNIST test pictures, through the ONNX graph"
    return {
        "accuracy": evaluate.accuracy(predicted, test.labels, how),
        "log_loss": evaluate.bootstrap(evaluate.log_loss, probabilities, test.labels, how=how),
        "calibration_error": evaluate.bootstrap(
            evaluate.calibration_error, confidence, predicted == test.labels, how=how + "; 10 bins"
        ),
        "photograph_accuracy": evaluate.accuracy(
            read,
            drawn.labels,
            f"{len(drawn):,} MNIST test digits drawn into photograph-like pictures (training.photographs, seed "
            f"{PHOTOGRAPH_SEED}), through picture decoding and the ONNX graph",
        ),
    }


def plot(graph: Path, test: Pictures, history: Sequence[dict[str, float]]) -> None:
    """Learning curve, confusion matrix, reliability diagram and mistakes, beside the graph."""
    directory = graph.parent
    probabilities = _read(graph, test)
    predicted: Labels = probabilities.argmax(1)
    right = predicted == test.labels
    evaluate.plot_learning_curve(history, directory / "learning_curve.png")
    evaluate.plot_confusion(predicted, test.labels, DIGITS, directory / "confusion_matrix.png")
    evaluate.plot_reliability(probabilities.max(1), right, directory / "reliability.png")
    wrong = np.flatnonzero(~right)[:40]
    titles = [f"{test.labels[row]}, read {predicted[row]}" for row in wrong]
    evaluate.plot_pictures(test.pictures[wrong], directory / "mistakes.png", titles=titles)


def write_card(
    directory: Path,
    *,
    title: str,
    figures: dict[str, Figure],
    splits: dict[str, str],
    training: Training,
    intended_use: str,
    limits: tuple[str, ...],
) -> Card:
    """Writes the card; what all versions have in common is said here."""
    return export.write_card(
        directory,
        title=title,
        task="Which handwritten digit is in the picture",
        inputs=(
            TensorSpec(
                name="pictures",
                dtype="uint8",
                shape=("batch", 28, 28),
                meaning="grey pictures, centred and scaled as MNIST's",
                range="0 (background) to 255 (ink)",
            ),
        ),
        outputs=(
            TensorSpec(
                name="probabilities",
                dtype="float32",
                shape=("batch", 10),
                meaning="probability of each digit",
                range="0 to 1, each row sums to 1",
            ),
        ),
        classes=DIGITS,
        figures=figures,
        data=(MNIST.describe(splits),),
        training=training,
        intended_use=intended_use,
        limits=(
            "Anything that is not a digit is given a digit all the same; of several digits the most prominent is read.",
            "MNIST was written by American clerks and students: a crossed 7 or a 1 with a long flag is rare.",
            *limits,
        ),
    )


def _read(graph: Path, pictures: Pictures) -> npt.NDArray[np.float32]:
    """Probabilities, float32 `[n, 10]`."""
    (probabilities,) = export.session(graph).run(None, {"pictures": pictures.pictures})
    found: npt.NDArray[np.float32] = probabilities
    return found
