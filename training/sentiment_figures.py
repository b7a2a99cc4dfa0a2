"""How good the sentiment model is, and what its card says: from its ONNX graph and the reviews of the test split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from service.registry.card import GRAPHS, PREDICTION, Card, Distribution, Figure, Training
from service.tasks.sentiment import MAX_TOKENS, SentimentTask
from service.tensors import Tensors
from training import evaluate, export, int8
from training.datasets import IMDB
from training.sentiment_corpus import Corpus, by_length, padded
from training.sentiment_graph import OUTPUTS, inputs

CLASSES = ("negative", "positive")
INT8 = (
    "weights of the convolution in seven bits, a step for each output; vectors are bytes in both precisions; the "
    "recurrent layers and all else in float32"
)

Floats = npt.NDArray[np.float32]


def measure(graph: Path, test: Corpus) -> dict[str, Figure]:
    """The figures of the card: of the model as served, and of its two parts alone."""
    probabilities, log_odds = _read(graph, test)
    how = f"{len(test.ids):,} IMDB test reviews, through the ONNX graph"
    recurrent, linear = (log_odds > 0).astype(np.int64).T
    return {
        "accuracy": evaluate.accuracy(probabilities.argmax(1), test.labels, how),
        "accuracy_recurrent": evaluate.accuracy(recurrent, test.labels, how + "; the recurrent network alone"),
        "accuracy_linear": evaluate.accuracy(linear, test.labels, how + "; the linear model alone"),
        "area_under_roc": evaluate.bootstrap(
            evaluate.area_under_roc, probabilities[:, 1], test.labels, how=how, resamples=200
        ),
        "log_loss": evaluate.bootstrap(evaluate.log_loss, probabilities, test.labels, how=how),
        "calibration_error": evaluate.bootstrap(
            evaluate.calibration_error, probabilities[:, 1], test.labels == 1, how=how + "; 10 bins"
        ),
    }


def distributions(graph: Path, test: Corpus) -> dict[str, Distribution]:
    """How reviews, and what the graph makes of them, are distributed.

    Those of the test split are: of the others, which the vocabulary was made from, it knows more words than of any.
    """
    features = SentimentTask.features({"tokens": padded(test.ids, range(len(test.ids))).numpy()})
    prediction = _read(graph, test)[0].argmax(1)
    how = f"{len(test.ids):,} reviews of the test split, from which the vocabulary was not made"
    return evaluate.distributions({**features, PREDICTION: prediction}, how)


def plot(graph: Path, test: Corpus, history: Sequence[dict[str, float]]) -> None:
    """Learning curve, confusion matrix and reliability diagram, beside the graph."""
    directory = graph.parent
    probabilities, _ = _read(graph, test)
    validated = [row for row in history if "validation_accuracy" in row]
    evaluate.plot_learning_curve(validated, directory / "learning_curve.png")
    evaluate.plot_confusion(probabilities.argmax(1), test.labels, CLASSES, directory / "confusion_matrix.png")
    evaluate.plot_reliability(probabilities[:, 1], test.labels == 1, directory / "reliability.png")


def write_card(
    directory: Path,
    cell: Literal["lstm", "gru"],
    vocabulary: int,
    held_out: int,
    test: Corpus,
    figures: Mapping[str, Figure],
    training: Training,
) -> Card:
    """Measures both graphs and writes the card.

    Args:
        vocabulary: words that are known.
        held_out: reviews of the training split that were held out.
        figures: further ones, of the network.
    """
    measured, in_int8 = (measure(directory / GRAPHS[precision], test) for precision in ("float32", "int8"))
    return export.write_card(
        directory,
        title=f"Sentiment, {cell.upper()} beside bigrams",
        task="Does the reviewer like the film",
        inputs=inputs(vocabulary),
        outputs=OUTPUTS,
        classes=CLASSES,
        figures={**measured, **figures},
        int8=int8.settle(directory, measured, in_int8, _runs(test), INT8),
        distributions=distributions(directory / GRAPHS["float32"], test),
        data=(
            IMDB.describe(
                {
                    "training": "the 25,000 training reviews but 123 whose text stands in the test split word for word",
                    "validation": f"{held_out:,} of these, drawn by film with seed {training.seed}: epochs, "
                    "calibration, the weights of the two parts; the served model is then fitted on them too",
                    "test": "the 25,000 test reviews, for the figures and distributions alone",
                }
            ),
        ),
        training=training,
        intended_use="Reviews of films in English, as people write them on the web. A course's classic, done properly.",
        limits=(
            "Trained on strong opinions (1 to 4 and 7 to 10 of 10 stars): a lukewarm review is forced to one side.",
            "Other subjects than films, other languages, irony and quoted opinions mislead it.",
            'It knows negations that reviewers often use, not every one: "never gets boring" sounds boring to it.',
            f"Of a review of more than {MAX_TOKENS:,} words and marks only the last ones are read.",
            "It knows the actors and directors of 2011 and before by their reputation then, and leans on it.",
        ),
    )


def _runs(test: Corpus) -> dict[str, Tensors]:
    """Reviews of about middle length, by how many."""
    order = np.argsort([len(ids) for ids in test.ids], kind="stable")
    middle = len(order) // 2
    return {str(rows): {"tokens": padded(test.ids, order[middle : middle + rows]).numpy()} for rows in (1, 8, 64)}


def _read(graph: Path, test: Corpus) -> tuple[Floats, Floats]:
    """What the graph says of the reviews: probabilities and log-odds, each float32 `[n, 2]`."""
    session = export.session(graph)
    probabilities, log_odds = (np.empty((len(test.ids), 2), np.float32) for _ in range(2))
    for rows in by_length(test.ids):
        probabilities[rows], log_odds[rows] = session.run(None, {"tokens": padded(test.ids, rows).numpy()})
    return probabilities, log_odds
