"""`make evaluate`: the table of the README, measured anew from the graphs in models/ and the real data.

The table is that of the references; graphs in eight-bit integers are measured too. Ends with a failure if a figure of
either is further than `AGREEMENT` from its card.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from service.engine.session import Precision
from service.registry.card import GRAPHS, Card, Figure
from service.tasks.sentiment import ReviewReader
from training import datasets, digits_figures, fashion_figures, mammogram, sentiment_figures
from training.datasets import FASHION_MNIST, MNIST
from training.sentiment_corpus import Corpus

Figures = dict[str, Figure]
Measured = dict[Precision, Figures]

AGREEMENT = 0.002
"""How far a figure may be from its card: another processor rounds otherwise."""


@dataclass(frozen=True)
class Row:
    """A line of the table: a figure of a version, and what the classic course has instead."""

    version: str
    figure: str
    name: str
    classic: str = ""
    share: bool = True
    """Shown in percent."""


ROWS = (
    Row("digits/1", "accuracy", "digits, MLP: accuracy on MNIST's test set", "98 %"),
    Row("digits/2", "accuracy", "digits, CNN: accuracy on MNIST's test set", "99 %"),
    Row("digits/2", "photograph_accuracy", "digits, CNN: the same digits drawn into photographs"),
    Row("sentiment/1", "accuracy", "sentiment, as served: accuracy on IMDB's test set", "81 %"),
    Row("sentiment/1", "accuracy_recurrent", "sentiment, its LSTM alone"),
    Row("mammogram/1", "accuracy", "mammogram: accuracy, cross-validated", "80 %"),
    Row("mammogram/1", "area_under_roc", "mammogram: area under ROC, cross-validated", share=False),
    Row("mammogram/1", "calibration_error", "mammogram: expected calibration error", share=False),
    Row("mammogram/1", "brier_score", "mammogram: Brier score", share=False),
    Row("fashion/1", "agreement", "fashion: drawn pictures that a judge takes for their class"),
    Row("fashion/1", "agreement_real", "fashion: real pictures that it takes for their class"),
    Row("fashion/1", "frechet_distance", "fashion: Frechet distance of drawn to real, judge's features", share=False),
    Row("fashion/1", "frechet_distance_real", "fashion: the same of real to real", share=False),
)


def digits(directory: Path, data_dir: Path | None) -> Measured:
    """Of one version of digits."""
    _, test = datasets.pictures(MNIST, data_dir)
    graphs = _graphs(directory)
    return dict(zip(graphs, digits_figures.measure(list(graphs.values()), test, test), strict=True))


def sentiment(directory: Path, data_dir: Path | None) -> Measured:
    """Of the sentiment model and its parts."""
    _, test = datasets.reviews(data_dir)
    corpus = Corpus.of(test, ReviewReader.of(directory))
    return {precision: sentiment_figures.measure(graph, corpus) for precision, graph in _graphs(directory).items()}


def mammograms(directory: Path, data_dir: Path | None) -> Measured:
    """Of the procedure that made the mammogram model, with the card's hyperparameters: no rows are left to test on."""
    made = Card.read(directory).training
    return {"float32": mammogram.cross_validate(mammogram.Hyperparameters(**made.hyperparameters), made.seed, data_dir)}


def fashion(directory: Path, data_dir: Path | None) -> Measured:
    """Of ten thousand drawn pictures."""
    made = Card.read(directory).training
    everything, test = datasets.pictures(FASHION_MNIST, data_dir)
    training, _ = everything.split(made.hyperparameters["held_out"], made.seed)
    drawn = fashion_figures.draw(directory / GRAPHS["float32"], len(test), made.seed + 1)
    return {"float32": fashion_figures.measure(drawn, training, test)[0]}


MEASURES: dict[str, Callable[[Path, Path | None], Measured]] = {
    "digits/1": digits,
    "digits/2": digits,
    "sentiment/1": sentiment,
    "mammogram/1": mammograms,
    "fashion/1": fashion,
}


def _graphs(directory: Path) -> dict[Precision, Path]:
    return {precision: directory / GRAPHS[precision] for precision in Card.read(directory).precisions}


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m training.report", description=__doc__)
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--data-dir", type=Path, help="where the data sets are (DEEPSERVE_DATA_DIR)")
    options = parser.parse_args()
    print("| what | classic course | here | 95 % interval |\n| --- | --- | --- | --- |", flush=True)
    strays = []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        running = {
            version: pool.submit(measure, options.models_dir / version, options.data_dir)
            for version, measure in MEASURES.items()
        }
        for version, measured in running.items():
            found = measured.result()
            for row in (row for row in ROWS if row.version == version):
                print(_line(row, found["float32"][row.figure]), flush=True)
            card = Card.read(options.models_dir / version)
            strays += [
                f"{version} in {precision}, {name}"
                for precision, figures in found.items()
                for name in _strays(figures, _on_card(card, precision))
            ]
    if strays:
        sys.exit(f"not as on the card: {', '.join(strays)}")


def _line(row: Row, figure: Figure) -> str:
    bounds = [_show(row, bound) for bound in (figure.low, figure.high) if bound is not None]
    return f"| {row.name} | {row.classic} | {_show(row, figure.value)} | {' to '.join(bounds)} |"


def _show(row: Row, value: float) -> str:
    return f"{100 * value:.2f} %" if row.share else f"{value:.3f}"


def _on_card(card: Card, precision: Precision) -> Figures:
    return card.figures if card.int8 is None or precision == "float32" else card.int8.figures


def _strays(found: Figures, card: Figures) -> Iterator[str]:
    for name, figure in found.items():
        if abs(figure.value - card[name].value) > AGREEMENT:
            yield f"{name}: {figure.value:.4f}, not {card[name].value:.4f}"


if __name__ == "__main__":
    main()
