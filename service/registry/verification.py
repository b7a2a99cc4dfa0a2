"""A version proves itself before it serves.

Its files are those of its card; its graph is one that ONNX Runtime accepts, with the inputs and outputs that the card
says, and runs on the device that was asked for; its golden cases come out as they did in training.

ONNX Runtime's own load is the structure check: it refuses, with the reason, graphs with cycles, names that nobody or
two define, operations, attributes, types or versions that do not exist, and data that leads out of the directory. What
it lets through and puts right in silence, an output declared with another shape say, the card and the cases show.
"""

import time
from os.path import realpath  # unlike Path.resolve, it takes links that lead in a circle
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from service.engine.onnx.session import open_session
from service.engine.session import Runtime, RunTimeoutError, Session, SessionError
from service.errors import clean_message
from service.registry.card import FILE_NAME, GOLDEN, GRAPHS, Card, digests
from service.tensors import Array, Tensors, TensorSpec

GOLDEN_TOLERANCE = {"f": 1e-4, "u": 1.0, "i": 0.0}
"""Largest difference from a golden output by kind of dtype; of floats above 1, as a share of them. Another processor
rounds otherwise."""

GOLDEN_ROWS = 4
"""Golden cases that run together: enough to show that neighbours do not matter, few enough to take little memory."""

GOLDEN_SECONDS = 60.0
"""For all golden cases of a version, which take a hundredth of it: a graph may loop for ever, and others wait."""


class VerificationError(Exception):
    """A version is not what its card says; the message says where, in one line without paths of this machine."""

    def __init__(self, reason: str) -> None:
        super().__init__(clean_message(reason))


class UnreadableError(VerificationError):
    """The operating system fails to read a file of the version. The same files may do later."""


def verify(directory: Path, runtime: Runtime, seconds: float = GOLDEN_SECONDS) -> tuple[Card, Session]:
    """The card of the version in `directory`, and a warm session of the graph that `runtime` serves.

    Its golden cases may take `seconds`.

    Raises:
        VerificationError: something of it is not as it should be.
    """
    card = verify_files(directory)
    return card, verify_graph(directory, card, runtime, seconds)


def verify_files(directory: Path) -> Card:
    """The card of `directory`, `.../<name>/<version>`, once every file is the one that it names.

    Raises:
        VerificationError: the card is missing or not valid; a file is missing, changed or unknown to it, is none, or
            lies outside the folder that holds the models.
        UnreadableError: a file that is there cannot be read.
    """
    try:
        return _verified_files(directory)
    except FileNotFoundError as error:
        raise VerificationError(_shown(error, directory)) from error
    except OSError as error:
        raise UnreadableError(_shown(error, directory)) from error


def _shown(error: OSError, directory: Path) -> str:
    """Return an error without the path of the version's folder."""
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
    """Links may lead anywhere in the models' folder, as Kubernetes lays volumes out, but not out of it."""
    root = realpath(directory.parent.parent)
    if not Path(realpath(directory)).is_relative_to(root):
        raise VerificationError("the version leads out of the models' folder")
    files = [path for path in sorted(directory.iterdir()) if not path.name.startswith(".")]
    if outside := [path.name for path in files if not Path(realpath(path)).is_relative_to(root)]:
        raise VerificationError(f"{', '.join(outside)}: leads out of the models' folder")
    if strange := [path.name for path in files if not path.is_file()]:
        raise VerificationError(f"{', '.join(strange)}: not a file")


def _read_card(directory: Path) -> Card:
    try:
        return Card.read(directory)
    except ValidationError as error:
        first, *others = error.errors()
        place = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
        more = f" (and {len(others)} more)" if others else ""
        raise VerificationError(f"{FILE_NAME}: {place}{first['msg']}{more}") from error


def verify_graph(directory: Path, card: Card, runtime: Runtime, seconds: float = GOLDEN_SECONDS) -> Session:
    """A warm session of the graph that `runtime` serves, once it has proved itself by golden cases.

    `golden.npz` holds the inputs as `in:NAME`, what torch makes of them as `out:NAME`, and what the graph in eight-bit
    integers, if there is one, makes of them as `int8:NAME`: these are the same on every processor. They run some
    together and one by one.

    Raises:
        VerificationError: the graph does not load or run, is not what the card says, or an output differs from the
            recorded one by more than `GOLDEN_TOLERANCE`; or the cases take more than `seconds`.
    """
    try:
        session = open_session(directory, card, runtime)
        count, inputs, expected = _golden(directory, card, "int8" if session.precision == "int8" else "out")
        session.warm_up(inputs)
        sequences = {spec.name for spec in card.inputs if not all(isinstance(size, int) for size in spec.shape[1:])}
        end = time.monotonic() + seconds
        for rows in [slice(row, row + step) for step in (GOLDEN_ROWS, 1) for row in range(0, count, step)]:
            cases = {name: value[rows] for name, value in inputs.items()}
            filled = {name: _filled(value) if name in sequences else value for name, value in cases.items()}
            outputs = session.run(filled, time_limit_seconds=end - time.monotonic())
            _agree(outputs, {name: value[rows] for name, value in expected.items()})
    except RunTimeoutError as error:
        raise VerificationError(f"golden cases: not done within {seconds:g} s") from error
    except SessionError as error:
        raise VerificationError(str(error)) from error
    return session


def _golden(directory: Path, card: Card, recorded: str) -> tuple[int, Tensors, Tensors]:
    """How many cases there are, their inputs and their outputs."""
    try:
        with np.load(directory / GOLDEN, allow_pickle=False) as golden:
            inputs = {spec.name: _fitting(golden, "in", spec) for spec in card.inputs}
            expected = {spec.name: _fitting(golden, recorded, spec) for spec in card.outputs}
    except VerificationError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen classes for what is no such file
        raise VerificationError(f"{GOLDEN}: {error}") from error
    counts = {len(value) for value in (*inputs.values(), *expected.values())}
    if len(counts) != 1 or 0 in counts:
        raise VerificationError(f"{GOLDEN}: rows of its arrays: {', '.join(map(str, sorted(counts)))}")
    return counts.pop(), inputs, expected


def _fitting(golden: np.lib.npyio.NpzFile, kind: str, spec: TensorSpec) -> Array:
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


def _filled(sequences: Array) -> Array:
    """Without the columns on the right that are 0 in every row: batches are padded to the longest and no further."""
    used = np.flatnonzero(sequences.any(axis=0))
    return sequences[:, : used[-1] + 1 if len(used) else 1]


def _agree(found: Tensors, expected: Tensors) -> None:
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise VerificationError(f"golden cases: {name} is {found[name].shape}, the recorded one {value.shape}")
        golden = value.astype(np.float64)
        scale = np.maximum(1, np.abs(golden)) if value.dtype.kind == "f" else 1
        difference = float((np.abs(found[name].astype(np.float64) - golden) / scale).max())
        if not difference <= GOLDEN_TOLERANCE[value.dtype.kind]:  # NaN fails too
            raise VerificationError(f"golden cases: {name} differs from the recorded one by {difference:.2g}")
