"""What is in models/: each version verified before it serves, the reason kept where one fails.

A version proves itself: its files are those of its card, its graph has the inputs and outputs that the card says and
runs on the device that was asked for, and its golden cases come out as they did in training. One that fails is
unavailable and never takes a good one down.
"""

import logging
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from service.engine.card import Card, digests
from service.engine.inference import Runtime, Session, SessionError, Tensors
from service.errors import NotFound, Unavailable

Array = npt.NDArray[np.generic]

logger = logging.getLogger(__name__)

GOLDEN_TOLERANCE = {"f": 1e-4, "u": 1.0, "i": 0.0}
"""Largest difference from a golden output by kind of dtype; of floats above 1, as a share of them. Another processor
rounds otherwise."""

GOLDEN_ROWS = 4
"""Golden cases that run together: enough to show that neighbours do not matter, few enough to take little memory."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


class State(StrEnum):
    """Whether a version serves."""

    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"


class VerificationError(Exception):
    """A version is not what its card says; the message says where."""


@dataclass
class Version:
    """One `models/<name>/<version>`: its card and session if it is ready, the reason if it is not."""

    name: str
    version: str
    directory: Path
    state: State
    reason: str | None = None
    card: Card | None = None
    session: Session | None = None


@dataclass
class Repository:
    """All versions of all models, newest last."""

    root: Path
    runtime: Runtime = field(default_factory=Runtime)
    models: dict[str, dict[str, Version]] = field(default_factory=dict)

    def load(self) -> None:
        """Verifies, loads and warms every version under `root`; folders with other names are ignored."""
        for directory in sorted(self.root.iterdir()):
            if directory.is_dir() and _NAME.fullmatch(directory.name):
                numbers = [d.name for d in directory.iterdir() if d.is_dir() and _VERSION.fullmatch(d.name)]
                if numbers:
                    self.models[directory.name] = {
                        number: self._load(directory / number) for number in sorted(numbers, key=int)
                    }

    def versions(self, name: str) -> dict[str, Version]:
        """Every version of a model, ready or not, oldest first.

        Raises:
            NotFound: there is no such model.
        """
        if (versions := self.models.get(name)) is None:
            raise NotFound(f"There is no model {name!r}.")
        return versions

    def version(self, name: str, version: str) -> Version:
        """One version of a model, ready or not.

        Raises:
            NotFound: there is no such model or version.
        """
        if (found := self.versions(name).get(version)) is None:
            raise NotFound(f"Model {name!r} has no version {version!r}.")
        return found

    def newest(self, name: str) -> Version:
        """The newest ready version.

        Raises:
            NotFound: there is no such model.
            Unavailable: none of its versions is ready.
        """
        for version in reversed(self.versions(name).values()):
            if version.state is State.READY:
                return version
        raise Unavailable(f"No version of model {name!r} is ready.")

    @property
    def ready(self) -> bool:
        """Whether there are models, and each has a version that is ready."""
        return bool(self.models) and all(
            any(version.state is State.READY for version in versions.values()) for versions in self.models.values()
        )

    def _load(self, directory: Path) -> Version:
        name, number = directory.parent.name, directory.name
        try:
            card = verify_files(directory)
            session = Session(directory, card, self.runtime)
            verify_golden(directory, card, session)
        except (VerificationError, SessionError) as error:
            logger.error("model %s version %s is unavailable: %s", name, number, error)  # noqa: TRY400
            return Version(name, number, directory, State.UNAVAILABLE, reason=str(error))
        except Exception:  # whatever is wrong with one version, the others serve
            logger.exception("model %s version %s is unavailable", name, number)
            return Version(name, number, directory, State.UNAVAILABLE, reason="it cannot be read; the log says why")
        logger.info("model %s version %s is ready on %s in %s", name, number, session.provider, session.precision)
        return Version(name, number, directory, State.READY, card=card, session=session)


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
        golden = value.astype(np.float64)
        scale = np.maximum(1, np.abs(golden)) if value.dtype.kind == "f" else 1
        difference = float((np.abs(found[name].astype(np.float64) - golden) / scale).max())
        if not difference <= GOLDEN_TOLERANCE[value.dtype.kind]:  # NaN fails too
            raise VerificationError(f"golden cases: {name} differs from the recorded one by {difference:.2g}")
