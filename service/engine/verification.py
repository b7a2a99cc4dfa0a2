"""A version proves itself before it serves.

Its files are those of its card, its graph has the inputs and outputs that the card says and runs on the device that was
asked for, and its golden cases come out as they did in training.
"""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from pydantic import ValidationError

from service.arrays import Array, Tensors
from service.engine.card import Card, digests
from service.engine.inference import Runtime, Session, SessionError

GOLDEN_TOLERANCE = {"f": 1e-4, "u": 1.0, "i": 0.0}
"""Largest difference from a golden output by kind of dtype; of floats above 1, as a share of them. Another processor
rounds otherwise."""

GOLDEN_ROWS = 4
"""Golden cases that run together: enough to show that neighbours do not matter, few enough to take little memory."""


class VerificationError(Exception):
    """A version is not what its card says; the message says where."""


def verify(directory: Path, runtime: Runtime) -> tuple[Card, Session]:
    """The card of the version in `directory` and a warm session of the graph that `runtime` serves.

    Raises:
        VerificationError: something of it is not as it should be.
    """
    card = verify_files(directory)
    try:
        session = Session(directory, card, runtime)
        verify_golden(directory, card, session)
    except SessionError as error:
        raise VerificationError(str(error)) from error
    return card, session


def verify_files(directory: Path) -> Card:
    """The card of `directory`, once every file is the one that it names.

    Raises:
        VerificationError: the card is missing or not valid, or a file is missing, changed or unknown to it.
    """
    try:
        card = Card.read(directory)
    except OSError as error:
        raise VerificationError(f"card.json cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise VerificationError(f"card.json: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if (card.name, card.version) != (directory.parent.name, directory.name):
        raise VerificationError(f"card.json is that of {card.name} version {card.version}")
    if folders := sorted(path.name for path in directory.iterdir() if path.is_dir() and path.name[0] != "."):
        raise VerificationError(f"{', '.join(folders)}: a folder, where only files belong")
    found = digests(directory)
    if wrong := sorted(file for file, digest in card.files.items() if found.get(file) != digest):
        raise VerificationError(f"{', '.join(wrong)}: missing, or the sha256 is not the card's")
    if unknown := sorted(found.keys() - card.files.keys()):
        raise VerificationError(f"{', '.join(unknown)}: not on the card")
    return card


def verify_golden(directory: Path, card: Card, session: Session) -> None:
    """Warms the session up, and runs the golden cases, some together and one by one.

    `golden.npz` holds the inputs as `in:NAME`, what torch makes of them as `out:NAME`, and what the graph in eight-bit
    integers, if there is one, makes of them as `int8:NAME`: these are the same on every processor.

    Raises:
        VerificationError: an output differs from the recorded one by more than `GOLDEN_TOLERANCE`.
    """
    recorded = "int8" if session.precision == "int8" else "out"
    try:
        with np.load(directory / "golden.npz", allow_pickle=False) as golden:
            inputs = {spec.name: golden[f"in:{spec.name}"] for spec in card.inputs}
            expected = {spec.name: golden[f"{recorded}:{spec.name}"] for spec in card.outputs}
    except (OSError, EOFError, KeyError, ValueError, BadZipFile) as error:
        raise VerificationError(f"golden.npz: {error}") from error
    session.warm(inputs)
    count = len(next(iter(inputs.values())))
    sequences = {spec.name for spec in card.inputs if not all(isinstance(size, int) for size in spec.shape[1:])}
    for rows in [slice(row, row + step) for step in (GOLDEN_ROWS, 1) for row in range(0, count, step)]:
        cut = {name: _filled(value[rows]) if name in sequences else value[rows] for name, value in inputs.items()}
        _agree(session.run(cut), {name: value[rows] for name, value in expected.items()})


def _filled(sequences: Array) -> Array:
    """Without the columns on the right that are 0 in every row: batches are padded to the longest and no further."""
    used = np.flatnonzero(sequences.any(axis=0))
    return sequences[:, : used[-1] + 1 if len(used) else 1]


def _agree(found: Tensors, expected: Tensors) -> None:
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise VerificationError(f"golden cases: {name} is {found[name].shape}, recorded is {value.shape}")
        golden = value.astype(np.float64)
        scale = np.maximum(1, np.abs(golden)) if value.dtype.kind == "f" else 1
        difference = float((np.abs(found[name].astype(np.float64) - golden) / scale).max())
        if not difference <= GOLDEN_TOLERANCE[value.dtype.kind]:  # NaN fails too
            raise VerificationError(f"golden cases: {name} differs from the recorded one by {difference:.2g}")
