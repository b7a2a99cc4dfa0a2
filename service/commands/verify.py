"""`python -m service verify`: verify versions of models before they are deployed.

It checks more than a server that loads a version: every graph on the card instead of only the one that would be served,
the task, and whether the card is complete.
"""

from collections.abc import Iterable, Iterator
from os.path import abspath
from pathlib import Path

from service.commands.doctor import Check, table
from service.engine.session import Precision, Runtime
from service.inference.binding import bind
from service.registry.card import FILE_NAME, GRAPHS, Card, lower_is_better
from service.registry.layout import MODEL_NAME, VERSION_NUMBER, scan, scan_model
from service.registry.loader import open_session
from service.registry.verification import VerificationError, verify_files
from service.tensors import TensorSpec


class NothingThereError(Exception):
    """A folder contains nothing to verify."""


def verify(folders: list[Path]) -> bool:
    """Verify what is in each folder, a version, a model or all models, and print it. Return whether no check failed.

    Raises:
        NothingThereError: a folder does not exist, cannot be read, or contains no version.
    """
    found = [version for folder in folders for version in _versions(Path(abspath(folder)))]
    failed = 0
    for version in found:
        checks = list(check(version))
        failed += any(each.failed for each in checks)
        print(f"{version.parent.name} version {version.name}", *table(checks), sep="\n")
    print(f"{len(found)} verified, {failed} failed")
    return not failed


def _versions(folder: Path) -> list[Path]:
    """Return the versions in a folder, and print which folders in it are ignored."""
    if not folder.is_dir():
        raise NothingThereError(f"{folder}: there is no such folder")
    try:
        if VERSION_NUMBER.fullmatch(folder.name) or (folder / FILE_NAME).exists():
            return [folder]
        model = scan_model(folder)
        if model.versions:
            found, ignored = [folder / number for number in model.versions], model.ignored
        else:
            layout = scan(folder)
            found = [folder / name / number for name, numbers in layout.models.items() for number in numbers]
            ignored = layout.ignored
            if layout.unreadable:
                raise NothingThereError(f"{folder}: {'; '.join(layout.unreadable.values())}")
    except OSError as error:
        raise NothingThereError(f"{folder}: {error.strerror}") from error
    if not found:
        raise NothingThereError(f"{folder}: there is no version of a model in it")
    for reason in ignored:
        print(f"ignored: {reason}")
    return found


def check(version: Path) -> Iterator[Check]:
    """Verify the version in `.../<name>/<number>`. Nothing is checked after files that are wrong."""
    name, number = version.parent.name, version.name
    if not MODEL_NAME.fullmatch(name) or not VERSION_NUMBER.fullmatch(number):
        yield Check("place", f"{name}/{number} is not like digits/1: no server would look at it", "FAIL")
    try:
        card = verify_files(version)
    except VerificationError as error:
        yield Check("files", str(error), "FAIL")
        return
    sizes = {file: (version / file).stat().st_size for file in card.files}
    if empty := [file for file, size in sizes.items() if not size]:
        yield Check("files", f"{', '.join(empty)}: empty", "FAIL")
    yield Check("files", f"{len(sizes)}, {sum(sizes.values()) / 1e6:.1f} MB, sha256 as on the card")
    yield from (_check_graph(version, card, precision) for precision, graph in GRAPHS.items() if graph in card.files)
    yield _check_task(version, card)
    if not card.distributions:
        yield Check("drift", "not measured: the card has no distributions to compare requests with", "warn")
    yield from (Check("baseline", worse, "warn") for worse in _worse_than_baselines(card))
    faults = list(_faults(card))
    yield from (Check("card", fault, "FAIL") for fault in faults)
    if not faults:
        data = ", ".join(source.name for source in card.data)
        yield Check("card", f"{len(card.figures)} figures, made from {data} by `{card.training.command}`")


def _check_graph(version: Path, card: Card, precision: Precision) -> Check:
    graph = GRAPHS[precision]
    try:
        open_session(version, card, Runtime(precision=precision))
    except VerificationError as error:
        return Check(graph, str(error), "FAIL")
    return Check(graph, f"{_signature(card.inputs)} -> {_signature(card.outputs)}, golden cases pass")


def _check_task(version: Path, card: Card) -> Check:
    try:
        bind(version, card)
    except VerificationError as error:
        return Check("task", str(error), "FAIL")
    return Check("task", f"the task {card.name} fits")


def _worse_than_baselines(card: Card) -> Iterator[str]:
    """Yield the figures that a simpler model beats by more than their intervals allow."""
    for baseline, figures in card.baselines.items():
        for name, other in figures.items():
            if (own := card.figures.get(name)) is None:
                continue
            lower = lower_is_better(name)
            bound = own.low if lower else own.high
            best = own.value if bound is None else bound
            if (other.value < best) if lower else (other.value > best):
                yield f"{name}, {own.value:.4g}, is worse than that of {baseline}, {other.value:.4g}"


def _faults(card: Card) -> Iterator[str]:
    """Return what is missing or contradictory on the card."""
    required = {
        "title": card.title,
        "task": card.task,
        "intended_use": card.intended_use,
        "limits": card.limits,
        "figures": card.figures,
        "data": card.data,
        "training.command": card.training.command,
        "training.commit": card.training.commit,
        "training.libraries": card.training.libraries,
    }
    yield from (f"{field} is empty" for field, value in required.items() if not value)
    for spec in (*card.inputs, *card.outputs):
        if spec.shape[:1] != ("batch",):
            yield f"the first dimension of {spec.name} is not batch"
    for source in card.data:
        missing = [field for field in ("source", "licence", "checksums", "splits") if not getattr(source, field)]
        yield from (f"{field} of the data {source.name} is empty" for field in missing)
    figures = dict(card.figures)
    if card.int8 is not None:
        figures |= {f"int8.{name}": figure for name, figure in (card.int8.figures | card.int8.speedup).items()}
    for name, figure in figures.items():
        if not figure.how:
            yield f"how the figure {name} was measured is not said"
        low, high = (figure.value if bound is None else bound for bound in (figure.low, figure.high))
        if not low <= figure.value <= high:
            yield f"the figure {name}, {figure.value:.4g}, is not within its bounds, {low:.4g} to {high:.4g}"


def _signature(tensors: Iterable[TensorSpec]) -> str:
    """As in `tokens int64[batch, length]`."""
    return ", ".join(f"{spec.name} {spec.dtype}[{', '.join(map(str, spec.shape))}]" for spec in tensors)
