"""The model card, `card.json`: the inputs and outputs of a version, and how it was made and measured.

Training writes it, a version is verified against it before it serves, and `GET /v1/models` shows it.
"""

import hashlib
from functools import cached_property
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from service.engine.session import Precision
from service.observability.drift import MAX_BINS
from service.observability.drift import PREDICTION as PREDICTION
from service.tensors import TensorSpec

FILE_NAME = "card.json"
GOLDEN = "golden.npz"
"""The golden cases: inputs, and the outputs recorded for them in training."""

GRAPHS: dict[Precision, str] = {"float32": "model.onnx", "int8": "model.int8.onnx"}
"""The file of the graph by precision. float32 is the reference, and always exists."""


class Section(BaseModel):
    """Part of a card. Unknown fields are invalid."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_serialization_defaults_required=True)


class Figure(Section):
    """A measured value, how it was measured, and the bounds of its 95 % interval if it has one."""

    value: float
    low: float | None = None
    high: float | None = None
    how: str


class Distribution(Section):
    """Histogram of a feature, one number a row, in the data of the version. Serving compares requests with it."""

    edges: tuple[float, ...]
    """Of the bins of `service.observability.drift`, ascending."""
    shares: tuple[float, ...]
    """Fraction of the rows in each bin."""
    rows: int
    how: str
    """Which data, and how the feature was measured."""

    @model_validator(mode="after")
    def _bins_fit(self) -> Self:
        if not all(map(isfinite, self.edges)) or any(below >= above for below, above in pairwise(self.edges)):
            raise ValueError("edges do not ascend")
        if len(self.shares) != len(self.edges) + 2 or len(self.shares) > MAX_BINS:
            raise ValueError(f"{len(self.edges)} edges and {len(self.shares)} shares, of at most {MAX_BINS}")
        if not all(share >= 0 for share in self.shares) or abs(sum(self.shares) - 1) > 1e-3:
            raise ValueError("the shares do not sum to 1")
        return self


class DataSource(Section):
    """A data set that the model was trained or measured on."""

    name: str
    source: str
    licence: str
    citation: str
    checksums: dict[str, str]
    """File to its checksum, as `algorithm:hex`."""
    origins: dict[str, str] = {}
    """File to the address that it can be downloaded from, or to how it was made."""
    splits: dict[str, str]
    """The content of each split, as in `{"validation": "5,000 rows cut from training, seed 0"}`."""


class Training(Section):
    """How the network was trained. `Card.provenance` says which commit made the other files."""

    command: str
    hyperparameters: dict[str, Any]
    seed: int
    commit: str
    finished: str
    """UTC, ISO 8601."""
    seconds: float
    hardware: str
    libraries: dict[str, str]


class Step(Section):
    """One step in the making of a version: what was done, by which command, at which commit and when."""

    action: Literal["trained", "exported", "quantised", "measured"]
    command: str
    commit: str
    finished: str
    """UTC, ISO 8601."""


class OperatingPoint(Section):
    """A threshold on the probability of the last class, and the cross-validated error rates that come with it."""

    name: str
    threshold: float
    sensitivity: Figure
    specificity: Figure


class Int8(Section):
    """The model quantized to eight-bit integers, compared with the float32 reference."""

    served: bool
    """Whether CPUs run it instead of the reference. CUDA has no kernels for it."""
    how: str
    """How it was quantized."""
    figures: dict[str, Figure]
    """The figures of the card that quantization may change, measured on this graph."""
    speedup: dict[str, Figure]
    """By rows of a run, as in `{"8": ...}`: the reference's time divided by this graph's, on one thread."""


class Card(Section):
    """The card of `models/<name>/<version>`."""

    name: str
    version: str
    title: str
    task: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    classes: tuple[str, ...]
    """The classes of the output's columns, in order; empty if there are none."""
    figures: dict[str, Figure]
    """Measured on the reference."""
    subgroups: dict[str, dict[str, Figure]] = {}
    """Figures of part of the test rows, by name of the part, such as "age under 50"."""
    baselines: dict[str, dict[str, Figure]] = {}
    """Figures of simpler models on the same test rows, by name of the model."""
    operating_points: tuple[OperatingPoint, ...] = ()
    """The recommended one first; empty where the likeliest class is the decision."""
    int8: Int8 | None = None
    """None if it was not tried."""
    distributions: dict[str, Distribution] = {}
    """By feature of the inputs, and for `PREDICTION`."""
    data: tuple[DataSource, ...]
    training: Training
    provenance: tuple[Step, ...] = ()
    """The steps that made the files and figures, oldest first; they may stem from different commits."""
    test_uses: tuple[str, ...] = ()
    """Every earlier look at the test rows, by this version or by its predecessors: each is a chance to overfit."""
    intended_use: str
    limits: tuple[str, ...]
    example: str = ""
    """A command that asks the service, for the version's page."""
    files: dict[str, str]
    """The sha256 of every file in the directory except the card, by name."""

    @classmethod
    def read(cls, directory: Path) -> "Card":
        """Read the card in `directory`.

        Raises:
            OSError: there is no card.
            pydantic.ValidationError: it is not valid.
        """
        return cls.model_validate_json((directory / FILE_NAME).read_bytes())

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that may be served. CPUs run the last, unless the settings choose the reference."""
        return ("float32", "int8") if self.int8 is not None and self.int8.served else ("float32",)

    @property
    def graphs(self) -> dict[Precision, str]:
        """File name of the graph in each precision, whether it may serve or not."""
        return {precision: name for precision, name in GRAPHS.items() if name in self.files}

    @property
    def external_data(self) -> tuple[str, ...]:
        """Names of the files beside the graphs, in which these may keep their weights."""
        return tuple(sorted(self.files.keys() - {*GRAPHS.values(), GOLDEN}))

    @cached_property
    def content(self) -> str:
        """A hash of the card, and so of the version: the card contains the checksums of all other files."""
        return hashlib.blake2b(self.model_dump_json().encode(), digest_size=16).hexdigest()

    @property
    def scores(self) -> str | None:
        """The output with a column for each class: the first, if it has as many columns; else None."""
        first = self.outputs[0]
        return first.name if first.shape[1:] == (len(self.classes),) else None

    def write(self, directory: Path) -> None:
        """Write the card to `directory`."""
        (directory / FILE_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def lower_is_better(figure: str) -> bool:
    """Return whether a smaller value of the figure of that name is the better one."""
    return any(word in figure for word in ("loss", "error", "brier", "distance"))


def digests(directory: Path) -> dict[str, str]:
    """Return the sha256 of every file in `directory`, by name. The card and hidden files are left out."""
    return {
        path.name: _sha256(path)
        for path in sorted(directory.iterdir())
        if path.name != FILE_NAME and not path.name.startswith(".")
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
