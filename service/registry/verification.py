"""Verify a version before it serves: its files, its graph and its golden cases.

The files must be those of the card. ONNX Runtime checks the structure of the graph when it loads it: cycles, undefined
or doubly defined names, unknown operators, attributes, types or opsets, and external data outside the directory. It
silently corrects other faults, such as an output declared with a wrong shape. The card and the golden cases find these.
"""

import time
from os.path import realpath  # Path.resolve raises for links that form a loop
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from service.engine.session import RunTimeoutError, Session
from service.errors import clean_message
from service.registry.card import FILE_NAME, GOLDEN, GRAPHS, Card, digests
from service.tensors import Array, Tensors, TensorSpec

GOLDEN_TOLERANCE = {"f": 1e-4, "u": 1.0, "i": 0.0}
"""Largest difference from a golden output, by kind of dtype: processors round differently. For floats above 1 it is
relative."""

GOLDEN_ROWS = 4
"""Golden cases in one run: enough to show that rows do not affect each other, few enough to take little memory."""

GOLDEN_SECONDS = 60.0
"""Time limit for all golden cases of a version, which take about 1 % of it. A graph may loop forever."""


class VerificationError(Exception):
    """A version is not what its card says. The message is one line without paths of this machine."""

    def __init__(self, reason: str) -> None:
        super().__init__(clean_message(reason))


class UnreadableError(VerificationError):
    """The operating system cannot read a file of the version. The same files may be readable later."""


def verify_files(directory: Path) -> Card:
    """Return the card in `directory`, `.../<name>/<version>`, once all files have the checksums of the card.

    Raises:
        VerificationError: the card is missing or not valid; a file is missing, changed, not on the card or not a
            regular file, or lies outside the models folder.
        UnreadableError: a file exists and cannot be read.
    """
    try:
        return _verified_files(directory)
    except FileNotFoundError as error:
        raise VerificationError(_message(error, directory)) from error
    except OSError as error:
        raise UnreadableError(_message(error, directory)) from error


def _message(error: OSError, directory: Path) -> str:
    """Describe an error without the path of the version's folder."""
    file = directory if error.filename is None else Path(error.filename)
    return f"{'the version' if file == directory else file.name} cannot be read: {error.strerror}"


def _verified_files(directory: Path) -> Card:
    _check_places(directory)
    card = _read_card(directory)
    if (card.name, card.version) != (directory.parent.name, directory.name):
        raise VerificationError(f"{FILE_NAME} is that of {card.name} version {card.version}")
    needed = {*(GRAPHS[precision] for precision in card.precisions), GOLDEN}
    if missing := sorted(needed - card.files.keys()):
        raise VerificationError(f"{', '.join(missing)}: not on the card, which needs it")
    found = digests(directory)
    if missing := sorted(card.files.keys() - found.keys()):
        raise VerificationError(f"{', '.join(missing)}: missing")
    if changed := sorted(file for file, digest in card.files.items() if found[file] != digest):
        raise VerificationError(f"{', '.join(changed)}: changed, the sha256 is not the card's")
    if unknown := sorted(found.keys() - card.files.keys()):
        raise VerificationError(f"{', '.join(unknown)}: not on the card")
    return card


def _check_places(directory: Path) -> None:
    """Check that links stay within the models folder. Kubernetes lays out volumes with links."""
    root = realpath(directory.parent.parent)
    if not Path(realpath(directory)).is_relative_to(root):
        raise VerificationError("the version leads out of the models' folder")
    files = [path for path in sorted(directory.iterdir()) if not path.name.startswith(".")]
    if outside := [path.name for path in files if not Path(realpath(path)).is_relative_to(root)]:
        raise VerificationError(f"{', '.join(outside)}: leads out of the models' folder")
    if others := [path.name for path in files if not path.is_file()]:
        raise VerificationError(f"{', '.join(others)}: not a file")


def _read_card(directory: Path) -> Card:
    try:
        return Card.read(directory)
    except ValidationError as error:
        first, *others = error.errors()
        place = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
        more = f" (and {len(others)} more)" if others else ""
        raise VerificationError(f"{FILE_NAME}: {place}{first['msg']}{more}") from error


def verify_golden_cases(session: Session, directory: Path, card: Card) -> None:
    """Warm `session` and compare its outputs with the recorded ones, for several rows at once and for single rows.

    `golden.npz` holds inputs as `in:NAME`, the outputs of the float32 model in PyTorch as `out:NAME`, and the outputs
    of the int8 graph, which are the same on every processor, as `int8:NAME`.

    Raises:
        VerificationError: an output differs from the recorded one by more than `GOLDEN_TOLERANCE`, or the cases take
            more than `GOLDEN_SECONDS`.
        SessionError: a run failed.
    """
    count, inputs, expected = _golden(directory, card, "int8" if session.precision == "int8" else "out")
    session.warm_up(inputs)
    sequences = {spec.name for spec in card.inputs if not all(isinstance(size, int) for size in spec.shape[1:])}
    try:
        end = time.monotonic() + GOLDEN_SECONDS
        for rows in [slice(row, row + step) for step in (GOLDEN_ROWS, 1) for row in range(0, count, step)]:
            cases = {name: value[rows] for name, value in inputs.items()}
            trimmed = {name: _trim(value) if name in sequences else value for name, value in cases.items()}
            outputs = session.run(trimmed, time_limit_seconds=end - time.monotonic())
            _compare(outputs, {name: value[rows] for name, value in expected.items()})
    except RunTimeoutError as error:
        raise VerificationError(f"golden cases: not done within {GOLDEN_SECONDS:g} s") from error


def _golden(directory: Path, card: Card, recorded: str) -> tuple[int, Tensors, Tensors]:
    """Return the number of cases, their inputs and their recorded outputs."""
    try:
        with np.load(directory / GOLDEN, allow_pickle=False) as golden:
            inputs = {spec.name: _array(golden, "in", spec) for spec in card.inputs}
            expected = {spec.name: _array(golden, recorded, spec) for spec in card.outputs}
    except VerificationError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen classes for broken files
        raise VerificationError(f"{GOLDEN}: {error}") from error
    counts = {len(value) for value in (*inputs.values(), *expected.values())}
    if len(counts) != 1 or 0 in counts:
        raise VerificationError(f"{GOLDEN}: rows of its arrays: {', '.join(map(str, sorted(counts)))}")
    return counts.pop(), inputs, expected


def _array(golden: np.lib.npyio.NpzFile, kind: str, spec: TensorSpec) -> Array:
    """Return an array of the golden cases once its dtype and shape are those of the card."""
    name = f"{kind}:{spec.name}"
    if name not in golden:
        raise VerificationError(f"{GOLDEN}: there is no {name}")
    value: Array = golden[name]
    sizes = [size if isinstance(size, int) else found for size, found in zip(spec.shape, value.shape, strict=False)]
    if value.dtype != spec.dtype or value.ndim != len(spec.shape) or list(value.shape) != sizes:
        expected = ", ".join(map(str, spec.shape))
        raise VerificationError(
            f"{GOLDEN}: {name} is {value.dtype}{list(value.shape)}, the card says {spec.dtype}[{expected}]"
        )
    return value


def _trim(sequences: Array) -> Array:
    """Remove the columns on the right that are 0 in every row: in serving, a batch is as long as its longest row."""
    used = np.flatnonzero(sequences.any(axis=0))
    return sequences[:, : used[-1] + 1 if len(used) else 1]


def _compare(found: Tensors, expected: Tensors) -> None:
    """Check that outputs are the recorded ones within `GOLDEN_TOLERANCE`."""
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise VerificationError(f"golden cases: {name} is {found[name].shape}, the recorded one {value.shape}")
        golden = value.astype(np.float64)
        scale = np.maximum(1, np.abs(golden)) if value.dtype.kind == "f" else 1
        difference = float((np.abs(found[name].astype(np.float64) - golden) / scale).max())
        if not difference <= GOLDEN_TOLERANCE[value.dtype.kind]:  # NaN fails too
            raise VerificationError(f"golden cases: {name} differs from the recorded one by {difference:.2g}")
