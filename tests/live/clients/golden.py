"""The golden cases of the models, for clients that do not have the service's code."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

DATATYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}
TOLERANCE = {"f": 1e-4, "u": 1, "i": 0}


class Case(NamedTuple):
    """Inputs of a version of a model, and their outputs."""

    model: str
    version: str
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    classes: list[str]

    def of(self, rows: np.ndarray) -> "Case":
        """Return some of the rows."""
        return self._replace(
            inputs={name: values[rows] for name, values in self.inputs.items()},
            outputs={name: values[rows] for name, values in self.outputs.items()},
        )

    def without_nan(self) -> "Case":
        """Return the rows without NaN, which JSON cannot represent."""
        known = [~np.isnan(values.reshape(len(values), -1).astype(float)).any(1) for values in self.inputs.values()]
        return self.of(np.flatnonzero(np.all(known, axis=0))[:3])


def cases(models: Path) -> Iterator[Case]:
    """Yield one case for every version in `models`."""
    for directory in sorted(models.glob("*/*/")):
        card = json.loads((directory / "card.json").read_text())
        expected = "int8:" if (card.get("int8") or {}).get("served") else "out:"
        with np.load(directory / "golden.npz") as golden:
            inputs, outputs = (
                {name.removeprefix(kind): golden[name] for name in golden.files if name.startswith(kind)}
                for kind in ("in:", expected)
            )
        yield Case(card["name"], card["version"], inputs, outputs, card["classes"])


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    """Check that shape, dtype and, within the tolerance of golden cases, values are equal."""
    assert found.dtype == expected.dtype, (found.dtype, expected.dtype)
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=TOLERANCE[expected.dtype.kind])
