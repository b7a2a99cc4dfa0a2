"""The model card, `card.json`: a version's contract with its clients and its record of how it was made and measured.

Training writes it, the repository holds the graph and the files against it before it serves, `GET /v1/models` shows it.
"""

import hashlib
from functools import cached_property
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from service.observability.drift import MOST_BINS
from service.observability.drift import PREDICTION as PREDICTION

FILE_NAME = "card.json"
GOLDEN = "golden.npz"
"""Inputs, and the outputs that the graph gave for them in training."""

DType = Literal["uint8", "int64", "float32"]
Precision = Literal["float32", "int8"]

GRAPHS: dict[Precision, str] = {"float32": "model.onnx", "int8": "model.int8.onnx"}
"""The graph of each precision; float32 is the reference and always there."""


class Section(BaseModel):
    """Part of a card: complete, and with nothing it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_serialization_defaults_required=True)


class TensorSpec(Section):
    """One input or output of the graph. A dimension is a size, or the name of a free one; the first is "batch"."""

    name: str
    dtype: DType
    shape: tuple[int | str, ...]
    meaning: str
    range: str


class Figure(Section):
    """A measured value, how it was measured, and the bounds of its 95 % interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None
    how: str


class Distribution(Section):
    """How often a feature, a number of each row, had which value in the data of the version; `how` says in which part.

    Serving holds what it is asked against this, in the same bins: see `service.observability.drift`.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]
    """Of the rows, in each bin."""
    rows: int
    how: str

    @model_validator(mode="after")
    def _bins_fit(self) -> Self:
        if not all(map(isfinite, self.edges)) or any(below >= above for below, above in pairwise(self.edges)):
            raise ValueError("edges do not ascend")
        if len(self.shares) != len(self.edges) + 2 or len(self.shares) > MOST_BINS:
            raise ValueError(f"{len(self.edges)} edges and {len(self.shares)} shares, of at most {MOST_BINS}")
        if not all(share >= 0 for share in self.shares) or abs(sum(self.shares) - 1) > 1e-3:
            raise ValueError("the shares do not sum to 1")
        return self


class DataSource(Section):
    """A data set that the model has seen, or was measured on."""

    name: str
    source: str
    licence: str
    citation: str
    checksums: dict[str, str]
    """File to its checksum, as `algorithm:hex`."""
    splits: dict[str, str]
    """Split to what is in it, as in `{"validation": "5,000 rows cut from training, seed 0"}`."""


class Training(Section):
    """How the version came to be: with these, the commit and the data it can be made again."""

    command: str
    hyperparameters: dict[str, Any]
    seed: int
    commit: str
    finished: str
    """UTC, ISO 8601."""
    seconds: float
    hardware: str
    libraries: dict[str, str]


class Int8(Section):
    """The same model in eight-bit integers, held against the reference in float32: what is lost, what is won."""

    served: bool
    """Whether CPUs run it in place of the reference, from its own graph; CUDA has no kernels for it."""
    how: str
    figures: dict[str, Figure]
    """Those of the card that it may change, measured on it."""
    speedup: dict[str, Figure]
    """By rows of a run, as in `{"8": ...}`: time of the reference by time of this, on one thread."""


class Card(Section):
    """All that is to be known of `models/<name>/<version>`."""

    name: str
    version: str
    title: str
    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    classes: tuple[str, ...]
    """What the columns of the output stand for, in their order; empty where there are none."""
    figures: dict[str, Figure]
    """Of the reference."""
    int8: Int8 | None = None
    """None where it was not tried."""
    distributions: dict[str, Distribution] = {}
    """By feature of the inputs, and of the `PREDICTION`."""
    data: tuple[DataSource, ...]
    training: Training
    intended_use: str
    limits: tuple[str, ...]
    files: dict[str, str]
    """Name to sha256 of every file of the directory but the card itself."""

    @classmethod
    def read(cls, directory: Path) -> "Card":
        """The card in `directory`.

        Raises:
            OSError: there is none.
            pydantic.ValidationError: it is not a card.
        """
        return cls.model_validate_json((directory / FILE_NAME).read_bytes())

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those that have a graph; CPUs run the last, unless the reference is asked for."""
        return ("float32", "int8") if self.int8 is not None and self.int8.served else ("float32",)

    @cached_property
    def content(self) -> str:
        """A hash of the card, and so of the version: the card has the checksums of all other files."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=16).hexdigest()

    @property
    def scores(self) -> str | None:
        """The output whose columns stand for the classes: the first, where it has as many."""
        first = self.outputs[0]
        return first.name if first.shape[1:] == (len(self.classes),) else None

    def write(self, directory: Path) -> None:
        """Puts the card into `directory`."""
        (directory / FILE_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def digests(directory: Path) -> dict[str, str]:
    """Name to sha256 of every file in `directory` but the card and hidden ones, in the order of names."""
    return {
        path.name: _sha256(path)
        for path in sorted(directory.iterdir())
        if path.name != FILE_NAME and not path.name.startswith(".")
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
