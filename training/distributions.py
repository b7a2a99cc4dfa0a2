"""`python -m training.distributions`: measures anew how the rows that each model was made from are distributed.

Training writes it on the cards too. This does so without training, from the graphs in models/ and the real data, and
leaves all else on the cards as it is: for when a task begins to watch another feature of its inputs.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from service.registry.card import GRAPHS, Card, Distribution
from service.tasks.sentiment import ReviewReader
from training import datasets, digits_figures, fashion_figures, mammogram_figures, sentiment_figures
from training.datasets import MNIST
from training.sentiment_corpus import Corpus

Distributions = dict[str, Distribution]


def digits(directory: Path, data_dir: Path | None) -> Distributions:
    """Of one version of digits."""
    made = Card.read(directory).training
    everything, _ = datasets.pictures(MNIST, data_dir)
    training, _ = everything.split(made.hyperparameters["held_out"], made.seed)
    return digits_figures.distributions(directory / GRAPHS["float32"], training)


def sentiment(directory: Path, data_dir: Path | None) -> Distributions:
    """Of the sentiment model."""
    _, test = datasets.reviews(data_dir)
    corpus = Corpus.of(test, ReviewReader.of(directory))
    return sentiment_figures.distributions(directory / GRAPHS["float32"], corpus)


def mammogram(directory: Path, data_dir: Path | None) -> Distributions:
    """Of all masses."""
    return mammogram_figures.distributions(directory / GRAPHS["float32"], datasets.masses(data_dir))


def fashion(directory: Path, _data_dir: Path | None) -> Distributions:
    """Of latents; no data are needed."""
    return fashion_figures.distributions(Card.read(directory).training.seed)


MEASURES: dict[str, Callable[[Path, Path | None], Distributions]] = {
    "digits/1": digits,
    "digits/2": digits,
    "sentiment/1": sentiment,
    "mammogram/1": mammogram,
    "fashion/1": fashion,
}


def main() -> None:
    """Writes the cards, and says of which features."""
    parser = argparse.ArgumentParser(prog="python -m training.distributions", description=__doc__)
    parser.add_argument("versions", nargs="*", default=list(MEASURES), choices=MEASURES, metavar="NAME/VERSION")
    parser.add_argument("--models-dir", type=Path, default=Path("models"))
    parser.add_argument("--data-dir", type=Path, help="where the data sets are (DEEPSERVE_DATA_DIR)")
    options = parser.parse_args()
    for version in options.versions:
        directory = options.models_dir / version
        found = MEASURES[version](directory, options.data_dir)
        Card.read(directory).model_copy(update={"distributions": found}).write(directory)
        print(f"{version}: {', '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
