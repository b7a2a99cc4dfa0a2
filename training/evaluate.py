"""Measure versions from their graphs and the real data; compare candidates with what serves; keep the pages true.

Each package `training.<model>.evaluate` provides `measure`, `measure_baselines`, `measure_distributions` and
`AGREEMENT`, the largest difference of a figure from its card.
"""

import importlib
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain, groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from service.engine.session import Precision
from service.registry.card import Card, Figure, Step, lower_is_better
from service.registry.layout import VERSION_NUMBER
from service.registry.verification import verify_files
from training import cards
from training.ledger import describe_use, ledger_of, record_use
from training.metrics import Figures, Measurement, paired_difference
from training.run import current_commit, now
from training.version import write_card

Measured = dict[Precision, Measurement]


def shipped(models_dir: Path) -> list[Path]:
    """Return all version directories under `models_dir`."""
    return sorted(path.parent for path in models_dir.glob("*/*/card.json"))


def evaluate_all(models_dir: Path, data_dir: Path | None, write: bool) -> bool:
    """Measure every version, print the README's table, and return whether all figures agree with the cards."""
    faults: list[str] = []
    table: dict[str, Figures] = {}
    commit = current_commit()
    models = [list(versions) for _, versions in groupby(shipped(models_dir), lambda directory: directory.parent)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        found = pool.map(partial(_measure_model, data_dir=data_dir), models)
        for directory, measured in zip(chain(*models), chain.from_iterable(found), strict=True):
            card = Card.read(directory)
            table[f"{card.name}/{card.version}"] = card.figures | measured["float32"].figures
            if write:
                write_figures(directory, measured, data_dir, commit)
            else:
                faults += (f"{directory}: {fault}" for fault in _disagreements(card, measured))
    print(cards.table(models_dir, table), end="")
    if faults:
        print("different from the card:", *faults, sep="\n  ", file=sys.stderr)
    return not faults


def _measure_model(versions: list[Path], data_dir: Path | None) -> list[Measured]:
    """Measure all versions of a model in one process: they share the preprocessed test rows."""
    return [measure(directory, data_dir) for directory in versions]


def measure(directory: Path, data_dir: Path | None) -> Measured:
    """Measure every graph of a version."""
    card = Card.read(directory)
    return {precision: _package(card).measure(directory, precision, data_dir) for precision in card.precisions}


def _package(card: Card) -> Any:
    return importlib.import_module(f"training.{card.name.replace('-', '_')}.evaluate")


def _disagreements(card: Card, measured: Measured) -> Iterator[str]:
    for precision, found in measured.items():
        recorded = card.int8.figures if precision == "int8" and card.int8 else card.figures
        for name, figure in found.figures.items():
            if name not in recorded:
                yield f"{name} in {precision} is not on the card"
            elif abs(figure.value - recorded[name].value) > _package(card).AGREEMENT:
                yield f"{name} in {precision}: {figure.value:.5f}, on the card {recorded[name].value:.5f}"


def compare(directory: Path, models_dir: Path, margin: float, data_dir: Path | None, write: bool) -> bool:
    """Measure one version, print its figures, and compare it with the serving one on the same rows.

    Returns:
        Whether no mean over the test rows is worse by more than `margin`.

    Raises:
        VerificationError: the directory is not what its card says.
    """
    card, commit = verify_files(directory), current_commit()
    candidate = measure(directory, data_dir)
    record_use(ledger_of(models_dir, card.name), directory, describe_use(card))
    print(f"{directory}\n\n| figure | value | 95 % interval |\n| --- | --- | --- |")
    for name, figure in candidate["float32"].figures.items():
        print(f"| {name} | {figure.value:.5f} | {cards.interval(figure)} |")
    if write:
        write_figures(directory, candidate, data_dir, commit)
    serving = _serving(models_dir / card.name, directory)
    if serving is None:
        print(f"\nno other version of {card.name} in {models_dir}: nothing to compare with")
        return True
    differences = paired(candidate["float32"], measure(serving, data_dir)["float32"])
    print(f"\n| figure | difference from {serving} | 95 % interval | verdict |\n| --- | --- | --- | --- |")
    for name, difference in differences.items():
        verdict = f"worse by more than {margin}" if is_worse(name, difference, margin) else "ok"
        print(f"| {name} | {difference.value:+.5f} | {cards.interval(difference)} | {verdict} |")
    return not any(is_worse(name, difference, margin) for name, difference in differences.items())


def paired(candidate: Measurement, serving: Measurement) -> Figures:
    """Return the differences of both versions' means, with intervals from drawing the rows in pairs."""
    how = "candidate less serving version, on the same rows"
    return {
        name: paired_difference(values, serving.per_row[name], how)
        for name, values in candidate.per_row.items()
        if name in serving.per_row
    }


def is_worse(figure: str, difference: Figure, margin: float) -> bool:
    """Return whether the difference is in the wrong direction by more than `margin`."""
    return (difference.value if lower_is_better(figure) else -difference.value) > margin


def _serving(model: Path, candidate: Path) -> Path | None:
    """Return the newest version of the model other than the candidate."""
    versions = [path for path in model.glob("*") if VERSION_NUMBER.fullmatch(path.name)]
    others = [path for path in versions if path.resolve() != candidate.resolve()]
    return max(others, key=lambda path: int(path.name), default=None)


def write_figures(directory: Path, measured: Measured, data_dir: Path | None, commit: str) -> None:
    """Replace the measured figures, subgroups and baselines on the card, and record the step.

    Args:
        directory: of the version.
        measured: its figures.
        data_dir: where the data sets are, for the baselines.
        commit: of the code that measured.
    """
    card = Card.read(directory)
    step = Step(action="measured", command="python -m training evaluate --write", commit=commit, finished=now())
    reference = measured["float32"]
    changes: dict[str, Any] = {
        "figures": card.figures | reference.figures,
        "subgroups": reference.subgroups,
        "baselines": _package(card).measure_baselines(directory, data_dir),
        "provenance": (*(kept for kept in card.provenance if kept.action != "measured"), step),
    }
    if card.int8 is not None and "int8" in measured:
        changes["int8"] = card.int8.model_copy(update={"figures": measured["int8"].figures})
    write_card(directory, card.model_copy(update=changes))


def write_distributions(directory: Path, data_dir: Path | None) -> list[str]:
    """Replace the distributions on the card; return their names."""
    card = Card.read(directory)
    found = _package(card).measure_distributions(directory, data_dir)
    write_card(directory, card.model_copy(update={"distributions": found}))
    return list(found)


def render_all(models_dir: Path, readme: Path, check: bool) -> list[Path]:
    """Render all pages and the README's table; return the files that were stale."""
    stale = []
    for directory in shipped(models_dir):
        card, page = Card.read(directory), directory / cards.PAGE
        if not page.exists() or page.read_text(encoding="utf-8") != cards.render_page(card):
            stale.append(page)
            if not check:
                write_card(directory, card)
    text = readme.read_text(encoding="utf-8")
    fresh = cards.with_tables(text, models_dir)
    if fresh != text:
        stale.append(readme)
        if not check:
            readme.write_text(fresh, encoding="utf-8")
    return stale
