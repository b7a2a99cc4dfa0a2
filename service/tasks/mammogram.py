"""Mammogram: estimate whether a mass is benign or malignant.

Shape, margin and density are given by name or by the code of the UCI data set. Unknown measurements are NaN, which the
graph accepts. BI-RADS is not an input: it is the radiologist's own assessment of the mass, not a measurement.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from service.tasks.base import MAX_ITEMS, Request, Response, Task
from service.tensors import Array, Tensors

MEASUREMENTS = ("age", "shape", "margin", "density")
"""The columns of the graph's input, in order."""
Severity = Literal["benign", "malignant"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The columns of the graph's output, in order."""
OLDEST = 120
"""Highest age that is accepted, in years."""
TRAINED_AGES = (18, 96)
"""Age of the youngest and the oldest patient of the training data, in years."""

Shape = Literal["round", "oval", "lobular", "irregular", 1, 2, 3, 4]
Margin = Literal["circumscribed", "microlobulated", "obscured", "ill-defined", "spiculated", 1, 2, 3, 4, 5]
Density = Literal["high", "iso", "low", "fat-containing", 1, 2, 3, 4]

LEVELS: dict[str, tuple[str, ...]] = {
    measurement: tuple(level for level in get_args(levels) if isinstance(level, str))
    for measurement, levels in (("shape", Shape), ("margin", Margin), ("density", Density))
}
"""By nominal measurement, the names of its levels; their codes count from 1 in this order."""

NOTICE = (
    "Decision support, not a diagnosis: the estimate of a small model of four measurements, for a physician to weigh."
)


def _level(value: Any) -> Any:
    """Return a name in lower case and a code as an integer. Validation rejects other values later."""
    if isinstance(value, str):
        return value.strip().lower()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return str(value) if isinstance(value, bool) else value  # True equals the code 1; as text it is rejected


def _schema(measurement: str) -> WithJsonSchema:
    """Return the JSON schema of a nominal measurement. Code generators reject an enum of strings and integers."""
    names = LEVELS[measurement]
    codes = {"type": "integer", "minimum": 1, "maximum": len(names)}
    return WithJsonSchema({"anyOf": [{"type": "string", "enum": [*names]}, codes, {"type": "null"}]})


class Mass(Request):
    """One mass as a radiologist describes it. Unknown measurements are null or absent."""

    age: Annotated[float, Field(strict=True, ge=0, le=OLDEST)] | None = None
    """The patient's age in years."""
    shape: Annotated[Shape | None, BeforeValidator(_level), _schema("shape")] = None
    margin: Annotated[Margin | None, BeforeValidator(_level), _schema("margin")] = None
    density: Annotated[Density | None, BeforeValidator(_level), _schema("density")] = None

    @model_validator(mode="after")
    def _check_any_known(self) -> Self:
        if all(getattr(self, measurement) is None for measurement in MEASUREMENTS):
            raise PydanticCustomError("nothing_known", "age, shape, margin or density must be known")
        return self


class MammogramRequest(Request):
    """Masses seen on mammograms."""

    masses: Annotated[list[Mass], Field(min_length=1, max_length=MAX_ITEMS)]


class Assessment(BaseModel):
    """The model's estimate for one mass."""

    severity: Severity
    """The more probable severity."""
    probability_malignant: float
    missing: list[str]
    """Measurements that were not given."""
    in_distribution: bool
    """Whether the age is within that of the training data, 18 to 96 years, or unknown."""


class MammogramOperatingPoint(BaseModel):
    """A threshold on `probability_malignant`, and its cross-validated error rates."""

    name: str
    threshold: float
    sensitivity: float
    """Share of the malignant masses above the threshold."""
    specificity: float
    """Share of the benign masses not above it."""


class MammogramResponse(Response):
    """One `Assessment` per mass, in order, and a notice of their limits."""

    predictions: list[Assessment]
    operating_points: list[MammogramOperatingPoint]
    """Recommended thresholds, the first by default; empty for a version whose card has none."""
    notice: str = NOTICE


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the model does not know about a mass."""

    missing: list[str]
    """Measurements that were not given."""
    in_distribution: bool
    """Whether the age occurs in the training data."""


class MammogramTask(Task[MammogramRequest, list[Coverage], MammogramResponse]):
    """Masses to severities."""

    name = "mammogram"
    Request = MammogramRequest
    Response = MammogramResponse
    inputs = ("masses",)
    outputs = ("probabilities",)

    def __init__(self, directory: Path) -> None:
        """Read the operating points from the card of the version in `directory`."""
        super().__init__(directory)
        card = json.loads((directory / "card.json").read_bytes())
        self.operating_points = [
            MammogramOperatingPoint(
                name=point["name"],
                threshold=point["threshold"],
                sensitivity=point["sensitivity"]["value"],
                specificity=point["specificity"]["value"],
            )
            for point in card.get("operating_points", ())
        ]

    def preprocess(self, request: MammogramRequest) -> tuple[Tensors, list[Coverage]]:
        """Return `masses`, float32 `[n, 4]`: age, shape, margin, density, NaN if unknown; and what is unknown."""
        rows = {"masses": np.array([numbers(mass) for mass in request.masses], np.float32)}
        return rows, [coverage(mass) for mass in request.masses]

    def postprocess(self, outputs: Tensors, state: list[Coverage]) -> MammogramResponse:
        """Return the assessments for `probabilities`, float32 `[n, 2]`: benign, malignant."""
        probabilities: npt.NDArray[np.generic] = outputs["probabilities"]
        return MammogramResponse(
            model=self.name,
            version=self.version,
            predictions=[
                Assessment(
                    severity=SEVERITIES[malignant > benign],
                    probability_malignant=malignant,
                    missing=known.missing,
                    in_distribution=known.in_distribution,
                )
                for (benign, malignant), known in zip(probabilities.tolist(), state, strict=True)
            ],
            operating_points=self.operating_points,
        )

    @staticmethod
    def features(inputs: Tensors) -> Mapping[str, Array]:
        """Return the four measurements."""
        return dict(zip(MEASUREMENTS, inputs["masses"].T, strict=True))


def coverage(mass: Mass) -> Coverage:
    """Return which measurements are missing, and whether the age occurs in the training data."""
    youngest, oldest = TRAINED_AGES
    missing = [measurement for measurement in MEASUREMENTS if getattr(mass, measurement) is None]
    return Coverage(missing, mass.age is None or youngest <= mass.age <= oldest)


def numbers(mass: Mass) -> list[float]:
    """Return the age in years and the codes of shape, margin and density, NaN where unknown."""
    age = np.nan if mass.age is None else mass.age
    return [age, *(_code(getattr(mass, measurement), names) for measurement, names in LEVELS.items())]


def _code(level: str | int | None, names: tuple[str, ...]) -> float:
    if level is None:
        return np.nan
    return names.index(level) + 1 if isinstance(level, str) else level
