"""Tensors as all packages exchange them: named numpy arrays, and the declarations of a graph's inputs and outputs."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Array = npt.NDArray[np.generic]
"""An array of any dtype and shape."""

Tensors = Mapping[str, Array]
"""Arrays by name, with the same number of rows (first dimension)."""

Rows = npt.NDArray[np.intp]
"""Row indices, `[n]`."""

DType = Literal["uint8", "int64", "float32"]


class TensorSpec(BaseModel):
    """One input or output of the graph. A dimension is a size, or the name of a free one; the first is "batch"."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_serialization_defaults_required=True)

    name: str
    dtype: DType
    shape: tuple[int | str, ...]
    meaning: str
    range: str


def take_rows(tensors: Tensors, rows: Rows | None) -> Tensors:
    """Return the given rows of all tensors, in the given order; None returns the tensors unchanged."""
    return tensors if rows is None else {name: values[rows] for name, values in tensors.items()}


def row_count(tensors: Tensors) -> int:
    """Return the number of rows of tensors, of which there is at least one."""
    return len(next(iter(tensors.values())))
