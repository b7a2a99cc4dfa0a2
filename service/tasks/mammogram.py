"""Mammogram: is the mass benign or malignant? The request and the answer, and how measurements become numbers.

Shape, margin and density go by name or by the code that the UCI data set gives them; what is not known is NaN, which
the graph takes as it is. BI-RADS is not taken: it is the reader's own assessment of the mass, not a measurement.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from service.tasks.base import MAX_ITEMS, Answer, Payload, Task
from service.tensors import Array, Tensors

MEASUREMENTS = ("age", "shape", "margin", "density")
"""The columns of the graph's input, in order."""
Severity = Literal["benign", "malignant"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The columns of the graph's output, in order."""
OLDEST = 120
"""Ages are 0 to this."""

Shape = Literal["round", "oval", "lobular", "irregular", 1, 2, 3, 4]
Margin = Literal["circumscribed", "microlobulated", "obscured", "ill-defined", "spiculated", 1, 2, 3, 4, 5]
Density = Literal["high", "iso", "low", "fat-containing", 1, 2, 3, 4]

LEVELS: dict[str, tuple[str, ...]] = {
    measurement: tuple(level for level in get_args(levels) if isinstance(level, str))
    for measurement, levels in (("shape", Shape), ("margin", Margin), ("density", Density))
}
"""The names of each nominal measurement's levels; their codes count from 1 in this order."""

NOTICE = (
    "Decision support, not a diagnosis: the estimate of a small model of four measurements, for a physician to weigh."
)


def _level(value: Any) -> Any:
    """A name in lower case, a code as the integer that it is."""
    if isinstance(value, str):
        return value.strip().lower()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return str(value) if isinstance(value, bool) else value  # True equals the code 1; as text it is refused


def _schema(measurement: str) -> WithJsonSchema:
    """Return the JSON schema of a nominal measurement: code generators refuse an enum of strings and integers."""
    names = LEVELS[measurement]
    codes = {"type": "integer", "minimum": 1, "maximum": len(names)}
    return WithJsonSchema({"anyOf": [{"type": "string", "enum": [*names]}, codes, {"type": "null"}]})


class Mass(Payload):
    """One mass, as a radiologist describes it; what is not known is null or absent."""

    age: Annotated[float, Field(strict=True, ge=0, le=OLDEST)] | None = None
    """The patient's, in years."""
    shape: Annotated[Shape | None, BeforeValidator(_level), _schema("shape")] = None
    margin: Annotated[Margin | None, BeforeValidator(_level), _schema("margin")] = None
    density: Annotated[Density | None, BeforeValidator(_level), _schema("density")] = None

    @model_validator(mode="after")
    def _something_is_known(self) -> Self:
        if all(getattr(self, measurement) is None for measurement in MEASUREMENTS):
            raise PydanticCustomError("nothing_known", "age, shape, margin or density must be known")
        return self


class MammogramRequest(Payload):
    """Masses seen on mammograms."""

    masses: Annotated[list[Mass], Field(min_length=1, max_length=MAX_ITEMS)]


class Assessment(BaseModel):
    """What the model makes of one mass."""

    severity: Severity
    """The likelier one."""
    probability_malignant: float


class MammogramAnswer(Answer):
    """One `Assessment` per mass, in order, and what they are good for."""

    predictions: list[Assessment]
    notice: str = NOTICE


class MammogramTask(Task[MammogramRequest, None, MammogramAnswer]):
    """Masses to severities."""

    name = "mammogram"
    Request = MammogramRequest
    Answer = MammogramAnswer
    inputs = ("masses",)
    outputs = ("probabilities",)

    def decode(self, request: MammogramRequest) -> tuple[Tensors, None]:
        """`masses`, float32 `[n, 4]`: age, shape, margin, density, NaN where not known."""
        return {"masses": np.array([numbers(mass) for mass in request.masses], np.float32)}, None

    def describe(self, outputs: Tensors, facts: None) -> MammogramAnswer:  # noqa: ARG002
        """From `probabilities`, float32 `[n, 2]`: benign, malignant."""
        probabilities: npt.NDArray[np.generic] = outputs["probabilities"]
        return MammogramAnswer(
            model=self.name,
            version=self.version,
            predictions=[
                Assessment(severity=SEVERITIES[malignant > benign], probability_malignant=malignant)
                for benign, malignant in probabilities.tolist()
            ],
        )

    @staticmethod
    def features(inputs: Tensors) -> Mapping[str, Array]:
        """The four measurements."""
        return dict(zip(MEASUREMENTS, inputs["masses"].T, strict=True))


def numbers(mass: Mass) -> list[float]:
    """Age in years and the codes of shape, margin and density, NaN where not known."""
    age = np.nan if mass.age is None else mass.age
    return [age, *(_code(getattr(mass, measurement), names) for measurement, names in LEVELS.items())]


def _code(level: str | int | None, names: tuple[str, ...]) -> float:
    if level is None:
        return np.nan
    return names.index(level) + 1 if isinstance(level, str) else level
