"""Measure digits in difficult pictures: `python -m training.digits.robustness` prints the share that is read right.

Each kind is drawn from all 10,000 test digits (`--digits` takes fewer), decoded, cropped and read as the service does.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from service.registry.card import GRAPHS
from training.data.images import MNIST, Pictures, load_images
from training.digits import clutter, pictures_read
from training.digits.clutter import KINDS
from training.digits.sheets import png

SEED = 0
"""Of the test pictures; tests and the choice of constants have used others."""
MARGINS = (0, 1, 2, 3)
SIDES = (None, 12, 16, 20, 28, 64, 200)
"""Longer side of a cut digit in pixels; None as it is."""
FIVES_ONLY = "detached-heavy-bar"


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m training.digits.robustness", description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/digits/2") / GRAPHS["int8"], help="the graph")
    parser.add_argument("--digits", type=int, default=10_000, help="how many of the test digits are drawn")
    parser.add_argument("--kinds", nargs="*", help="only these kinds")
    parser.add_argument("--data-dir", type=Path, help="where the data sets are (DEEPSERVE_DATA_DIR)")
    options = parser.parse_args()
    _, test = load_images(MNIST, options.data_dir)
    print("| kind | digits | read right | refused | rows a picture |\n| --- | --- | --- | --- | --- |", flush=True)
    for name, digits, drawn in _kinds(test[: options.digits]):
        if not options.kinds or name in options.kinds:
            print(_line(name, options.model, digits, drawn), flush=True)


def _kinds(test: Pictures) -> Iterator[tuple[str, Pictures, Iterator[bytes]]]:
    """Yield each kind's name, the digits that it draws, and their pictures."""
    fives = test[np.flatnonzero(test.labels == 5)]
    for name in KINDS:
        digits = fives if name == FIVES_ONLY else test
        yield name, digits, clutter.pictures(name, digits.pictures, SEED)
    for margin in MARGINS:
        for side in SIDES:
            name = f"margin-{margin}" if side is None else f"margin-{margin}-side-{side}"
            yield name, test, _cut(test, margin, side)


def _cut(test: Pictures, margin: int, side: int | None) -> Iterator[bytes]:
    """Yield each digit cut to its outline, every other one dark on light."""
    for number, digit in enumerate(test.pictures):
        yield png(clutter.cropped(digit, margin, side, negative=number % 2 == 1))


def _line(name: str, graph: Path, digits: Pictures, drawn: Iterator[bytes]) -> str:
    preprocessed = pictures_read.preprocess(drawn, name)
    read = pictures_read.read(graph, preprocessed)
    rows = [len(picture.inputs["pictures"]) for picture in preprocessed if picture is not None]
    right, refused = np.mean(read == digits.labels), np.mean(read < 0)
    return f"| {name} | {len(digits):,} | {right:.2%} | {refused:.2%} | {np.mean(rows):.2f} |"


if __name__ == "__main__":
    main()
