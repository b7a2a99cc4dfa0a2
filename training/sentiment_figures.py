"""How good the sentiment model is, and what its card says: from its ONNX graph and the reviews of the test split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from service.engine.card import Card, Figure, TensorSpec, Training
from service.predictors.sentiment import MAX_TOKENS, TOKENIZER_FILE
from training import evaluate, export
from training.datasets import IMDB
from training.sentiment_corpus import Corpus, by_length, padded

CLASSES = ("negative", "positive")

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
    figures: dict[str, Figure],
    training: Training,
) -> Card:
    """Writes the card: `vocabulary` words are known, `held_out` reviews of the training split were held out."""
    return export.write_card(
        directory,
        title=f"Sentiment, {cell.upper()} beside bigrams",
        task="Does the reviewer like the film",
        inputs=(
            TensorSpec(
                name="tokens",
                dtype="int64",
                shape=("batch", "length"),
                meaning=f"ids of the last {MAX_TOKENS} words and marks by {TOKENIZER_FILE}, padded on the right with 0",
                range=f"0 to {vocabulary - 1}; any other number is an unknown word",
            ),
        ),
        outputs=(
            TensorSpec(
                name="probabilities",
                dtype="float32",
                shape=("batch", 2),
                meaning="probability that the review is negative, and positive",
                range="0 to 1, each row sums to 1",
            ),
            TensorSpec(
                name="log_odds",
                dtype="float32",
                shape=("batch", 2),
                meaning="log-odds of positive by the recurrent network alone, and by the linear model alone",
                range="any; uncalibrated",
            ),
        ),
        classes=CLASSES,
        figures=figures,
        data=(
            IMDB.describe(
                {
                    "training": "the 25,000 training reviews but 123 whose text stands in the test split word for word",
                    "validation": f"{held_out:,} of these, drawn by film with seed {training.seed}: epochs, "
                    "calibration, the weights of the two parts; the served model is then fitted on them too",
                    "test": "the 25,000 test reviews, for the figures alone",
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


def _read(graph: Path, test: Corpus) -> tuple[Floats, Floats]:
    """What the graph says of the reviews: probabilities and log-odds, each float32 `[n, 2]`."""
    session = export.session(graph)
    probabilities, log_odds = (np.empty((len(test.ids), 2), np.float32) for _ in range(2))
    for rows in by_length(test.ids):
        probabilities[rows], log_odds[rows] = session.run(None, {"tokens": padded(test.ids, rows).numpy()})
    return probabilities, log_odds
