"""What all versions of `digits` have in common: how the graph is written and proved, its figures, plots and card."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from service.registry.card import GRAPHS, PREDICTION, Card, Distribution, Figure, Training
from service.tasks.digits import DigitsTask
from service.tensors import Tensors, TensorSpec
from training import evaluate, export, int8, photographs, pictures_read
from training.datasets import MNIST, Labels, Pictures
from training.pictures_read import Preprocessed

DIGITS = tuple("0123456789")
SIZE = 28
PHOTOGRAPH_SEED = 0

INPUTS = (
    TensorSpec(
        name="pictures",
        dtype="uint8",
        shape=("batch", SIZE, SIZE),
        meaning="grey pictures, centred and scaled as MNIST's",
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
INT8 = (
    "weights in seven bits, a step for each output; what layers pass on in eight, the steps fitted to pictures of the "
    "training split; the last layer in float32"
)

Figures = dict[str, Figure]


def write_graph(network: nn.Module, directory: Path, test: Pictures) -> Path:
    """The network's graph, proved at many batch sizes, with golden cases beside it."""
    names, free = (OUTPUTS[0].name,), {INPUTS[0].name: {0: "batch"}}
    graph = export.write_graph(network, directory, {"pictures": test.pictures[:2]}, names, free)
    export.check_parity(network, graph, ({"pictures": test.pictures[:size]} for size in (1, 2, 7, 64, 1000)))
    export.write_golden(network, directory, {"pictures": test.pictures[:32]}, names)
    return graph


def measure(graphs: Sequence[Path], test: Pictures, drawn: Pictures) -> list[Figures]:
    """Return each graph's figures: on the `test` pictures as they are, and on photographs of the `drawn` ones."""
    photographed = pictures_read.preprocess(photographs.photographs(drawn.pictures, PHOTOGRAPH_SEED), "photographs")
    return [_measure(graph, test, drawn.labels, photographed) for graph in graphs]


def _measure(graph: Path, test: Pictures, labels: Labels, photographed: list[Preprocessed | None]) -> Figures:
    probabilities = _read(graph, test)
    predicted, confidence = probabilities.argmax(1), probabilities.max(1)
    how = f"{len(test):,} MNIST test pictures, through the ONNX graph"
    return {
        "accuracy": evaluate.accuracy(predicted, test.labels, how),
        "log_loss": evaluate.bootstrap(evaluate.log_loss, probabilities, test.labels, how=how),
        "calibration_error": evaluate.bootstrap(
            evaluate.calibration_error, confidence, predicted == test.labels, how=how + "; 10 bins"
        ),
        "photograph_accuracy": evaluate.accuracy(
            pictures_read.read(graph, photographed),
            labels,
            f"{len(labels):,} MNIST test digits drawn into photograph-like pictures (training.photographs, seed "
            f"{PHOTOGRAPH_SEED}), through picture decoding and the ONNX graph",
        ),
    }


def distributions(graph: Path, training: Pictures) -> dict[str, Distribution]:
    """How the pictures of the training split, and what the graph reads in them, are distributed."""
    features = DigitsTask.features({"pictures": training.pictures})
    how = f"{len(training):,} pictures of the training split"
    return evaluate.distributions({**features, PREDICTION: _read(graph, training).argmax(1)}, how)


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
    training_pictures: Pictures,
    test: Pictures,
    drawn: Pictures,
    figures: Figures,
    splits: dict[str, str],
    training: Training,
    intended_use: str,
    limits: tuple[str, ...],
) -> Card:
    """Measures both graphs and writes the card; what all versions have in common is said here.

    Args:
        figures: further ones, of the network.
    """
    measured, in_int8 = measure([directory / GRAPHS[precision] for precision in ("float32", "int8")], test, drawn)
    return export.write_card(
        directory,
        title=title,
        task="Which handwritten digit is in the picture",
        inputs=INPUTS,
        outputs=OUTPUTS,
        classes=DIGITS,
        figures=measured | figures,
        int8=int8.settle(directory, measured, in_int8, _runs(test), INT8),
        distributions=distributions(directory / GRAPHS["float32"], training_pictures),
        data=(MNIST.describe(splits),),
        training=training,
        intended_use=intended_use,
        limits=(
            "Anything that is not a digit is given a digit all the same; of several digits the most prominent is read.",
            "MNIST was written by American clerks and students: a crossed 7 or a 1 with a long flag is rare.",
            *limits,
        ),
    )


def _runs(test: Pictures) -> dict[str, Tensors]:
    return {str(rows): {INPUTS[0].name: test.pictures[:rows]} for rows in (1, 8, 64)}


def _read(graph: Path, pictures: Pictures) -> npt.NDArray[np.float32]:
    """Probabilities, float32 `[n, 10]`."""
    (probabilities,) = export.session(graph).run(None, {"pictures": pictures.pictures})
    found: npt.NDArray[np.float32] = probabilities
    return found
