"""Measure a version of `sentiment` from its graphs and IMDB's test split."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from service.engine.session import Precision
from service.registry.card import GRAPHS, PREDICTION, Distribution
from service.tasks.sentiment import ReviewReader, SentimentTask
from training import metrics, plots
from training.data.imdb import load_reviews
from training.metrics import Figures, Measurement
from training.sentiment.tokens import Corpus, by_length, padded
from training.version import open_session

CLASSES = ("negative", "positive")
AGREEMENT = 5e-4
"""Largest difference from the card: other processors round differently."""

Floats = npt.NDArray[np.float32]


def measure(directory: Path, precision: Precision, data_dir: Path | None) -> Measurement:
    """Measure a graph of the version in `directory` on IMDB's test split."""
    return measure_graph(directory / GRAPHS[precision], _test_corpus(directory, data_dir))


def measure_graph(graph: Path, test: Corpus) -> Measurement:
    """Measure the model as served, and its two parts alone."""
    probabilities, log_odds = read(graph, test)
    positive = probabilities[:, 1]
    how = f"{len(test.ids):,} IMDB test reviews, through the ONNX graph"
    hits = probabilities.argmax(1) == test.labels
    losses = metrics.row_losses(probabilities, test.labels)
    recurrent, linear = ((log_odds > 0) == test.labels[:, None]).T
    area = metrics.bootstrap(
        lambda scores, labels: float(roc_auc_score(labels, scores)), positive, test.labels, how=how, resamples=200
    )
    return Measurement(
        figures={
            "accuracy": metrics.proportion(hits, how),
            "accuracy_recurrent": metrics.proportion(recurrent, how + "; the recurrent part alone"),
            "accuracy_linear": metrics.proportion(linear, how + "; the linear part alone"),
            "area_under_roc": area,
            "log_loss": metrics.mean(losses, how),
            "calibration_error": metrics.calibration_figure(positive, test.labels == 1, how),
        },
        per_row={"accuracy": hits.astype(np.float64), "log_loss": losses},
        subgroups=_by_length(hits, test),
    )


def _by_length(hits: npt.NDArray[np.bool_], test: Corpus) -> dict[str, Figures]:
    lengths = np.array([len(ids) for ids in test.ids])
    groups = {
        "under 100 tokens": lengths < 100,
        "100 to 299 tokens": (lengths >= 100) & (lengths < 300),
        "300 tokens or more": lengths >= 300,
    }
    return {
        name: {"accuracy": metrics.proportion(hits[rows], f"{rows.sum():,} IMDB test reviews")}
        for name, rows in groups.items()
        if rows.any()
    }


def measure_baselines(directory: Path, data_dir: Path | None) -> dict[str, Figures]:
    """Measure the linear part alone: a well-known model in its own right."""
    return baselines(directory / GRAPHS["float32"], _test_corpus(directory, data_dir))


def baselines(graph: Path, test: Corpus) -> dict[str, Figures]:
    """Return the figures of the linear part alone."""
    hits = (read(graph, test)[1][:, 1] > 0) == test.labels
    how = f"the linear part alone, NB-weighted words and bigrams, on {len(test.ids):,} IMDB test reviews"
    return {"words and bigrams": {"accuracy": metrics.proportion(hits, how)}}


def measure_distributions(directory: Path, data_dir: Path | None) -> dict[str, Distribution]:
    """Measure the distributions of test reviews."""
    return distributions(directory / GRAPHS["float32"], _test_corpus(directory, data_dir))


def distributions(graph: Path, test: Corpus) -> dict[str, Distribution]:
    """Return the distributions of reviews and of the graph's predictions.

    They are those of the test split: the vocabulary was made from the training split, which has fewer unknown words.
    """
    features = SentimentTask.features({"tokens": padded(test.ids, range(len(test.ids))).numpy()})
    prediction = read(graph, test)[0].argmax(1)
    how = f"{len(test.ids):,} reviews of the test split, from which the vocabulary was not made"
    return metrics.measure_distributions({**features, PREDICTION: prediction}, how)


def plot(graph: Path, test: Corpus, history: Sequence[dict[str, float]]) -> None:
    """Draw learning curve, confusion matrix and reliability diagram beside the graph."""
    directory = graph.parent
    probabilities, _ = read(graph, test)
    plots.plot_learning_curve(
        [row for row in history if "validation_accuracy" in row], directory / "learning_curve.png"
    )
    plots.plot_confusion(probabilities.argmax(1), test.labels, CLASSES, directory / "confusion_matrix.png")
    plots.plot_reliability(probabilities[:, 1], test.labels == 1, directory / "reliability.png")


def read(graph: Path, corpus: Corpus) -> tuple[Floats, Floats]:
    """Return the graph's probabilities and the parts' log-odds, each float32 `[n, 2]`."""
    session = open_session(graph)
    probabilities, log_odds = (np.empty((len(corpus.ids), 2), np.float32) for _ in range(2))
    for rows in by_length(corpus.ids):
        probabilities[rows], log_odds[rows] = session.run(None, {"tokens": padded(corpus.ids, rows).numpy()})
    return probabilities, log_odds


@cache
def _test_corpus(directory: Path, data_dir: Path | None) -> Corpus:
    return Corpus.of(load_reviews(data_dir)[1], ReviewReader.of(directory))
