"""Pages for people, rendered from the cards: the README of each version and the table in the project's README."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from service.registry.card import Card, Figure

PAGE = "README.md"
TEMPLATE = Path(__file__).with_name("card_page.md.jinja")


@dataclass(frozen=True)
class Row:
    """A line of the README's table: a figure of a version, and the classic course's value."""

    version: str
    figure: str
    text: str
    classic: str = ""
    percent: bool = True


ROWS = (
    Row("digits/1", "accuracy", "digits, MLP: accuracy on MNIST's test set", "98 %"),
    Row("digits/2", "accuracy", "digits, CNN: accuracy on MNIST's test set", "99 %"),
    Row("digits/2", "photograph_accuracy", "digits, CNN: the same digits in simulated photographs"),
    Row("sentiment/2", "accuracy", "sentiment: accuracy on IMDB's test set", "81 %"),
    Row("sentiment/2", "accuracy_linear", "sentiment, its linear part alone"),
    Row("sentiment/2", "accuracy_recurrent", "sentiment, its LSTM alone"),
    Row("mammogram/2", "accuracy", "mammogram: accuracy, cross-validated", "80 %"),
    Row("mammogram/2", "area_under_roc", "mammogram: area under ROC, cross-validated", percent=False),
    Row("mammogram/2", "calibration_error", "mammogram: expected calibration error", percent=False),
    Row(
        "mammogram/2",
        "calibration_error_worst_subset",
        "mammogram: the same with measurements missing, worst of 15 subsets",
        percent=False,
    ),
    Row("mammogram/2", "brier_score", "mammogram: Brier score", percent=False),
    Row("fashion/1", "agreement", "fashion: generated images that the judge assigns to their class"),
    Row("fashion/1", "agreement_real", "fashion: real images that the judge assigns to their class"),
    Row("fashion/1", "frechet_distance", "fashion: Frechet distance to real images, judge's features", percent=False),
    Row("fashion/1", "frechet_distance_real", "fashion: the same of real training images", percent=False),
)


def card_text(package: Path, variant: str) -> dict[str, Any]:
    """Return title, task, intended use, limits and example of a model from its `card.toml`.

    Args:
        package: the model's `__file__`-relative folder, such as `training/digits`.
        variant: table of the file; `common` holds what all variants share.
    """
    tables = tomllib.loads((package / "card.toml").read_text(encoding="utf-8"))
    common, own = tables.get("common", {}), tables[variant]
    limits = (*common.get("limits", ()), *own.get("limits", ()))
    return {**common, **own, "limits": limits}


def render_page(card: Card) -> str:
    """Return the version's page as Markdown. It does not depend on `card.files` but for the names of the plots."""
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, autoescape=False)
    environment.filters |= {
        "number": _number,
        "interval": interval,
        "with_interval": lambda figure: f"{_number(figure.value)} ({interval(figure)})".replace(" ()", ""),
        "words": lambda name: name.removesuffix(".png").replace("_", " "),
    }
    plots = [file for file in card.files if file.endswith(".png")]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(card=card, plots=plots)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"


def interval(figure: Figure, number: Any = _number) -> str:
    """Return the bounds as text, empty without an interval."""
    bounds = [number(bound) for bound in (figure.low, figure.high) if bound is not None]
    return " to ".join(bounds)


def table(models_dir: Path, figures: dict[str, dict[str, Figure]] | None = None) -> str:
    """Return the README's table as Markdown.

    Args:
        models_dir: where the cards are.
        figures: by version, in place of those on the cards.
    """
    lines = ["| what | classic course | baseline | here | 95 % interval |", "| --- | --- | --- | --- | --- |"]
    lines += _lines(models_dir, figures or {})
    return "\n".join(lines) + "\n"


def _lines(models_dir: Path, figures: dict[str, dict[str, Figure]]) -> Iterator[str]:
    for row in (row for row in ROWS if (models_dir / row.version).is_dir()):
        card = Card.read(models_dir / row.version)
        figure = figures.get(row.version, card.figures)[row.figure]
        show = _percent if row.percent else "{:.3f}".format
        baselines = [show(other[row.figure].value) for other in card.baselines.values() if row.figure in other]
        baseline = next(iter(baselines), "")
        yield f"| {row.text} | {row.classic} | {baseline} | {show(figure.value)} | {interval(figure, show)} |"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def int8_table(models_dir: Path) -> str:
    """Return the README's table of int8 graphs as Markdown."""
    lines = ["| model | accuracy in float32 | in integers | speed for 1 row | for 8 | for 64 |", "| --- " * 6 + "|"]
    for directory in sorted(path.parent for path in models_dir.glob("*/*/card.json")):
        card = Card.read(directory)
        if card.int8 is not None and card.int8.served:
            shares = [_percent(figures["accuracy"].value) for figures in (card.figures, card.int8.figures)]
            speeds = [f"{card.int8.speedup[rows].value:.1f}x" for rows in ("1", "8", "64")]
            lines.append(f"| {card.title} | " + " | ".join([*shares, *speeds]) + " |")
    return "\n".join(lines) + "\n"


def with_tables(readme: str, models_dir: Path) -> str:
    """Return the README's text with each table between its markers replaced."""
    for name, rows in (("figures", table(models_dir)), ("int8", int8_table(models_dir))):
        start, end = f"<!-- {name}: `make cards` writes this table -->\n", f"<!-- end of {name} -->\n"
        before, rest = readme.split(start)
        readme = before + start + rows + end + rest.split(end)[1]
    return readme
