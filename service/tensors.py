"""Named tensors, the data type that tasks, inference and engine exchange."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
"""An array of any dtype and shape."""

Tensors = Mapping[str, Array]
"""Arrays by name, with the same number of rows (first dimension)."""

Rows = npt.NDArray[np.intp]
"""Row indices, `[n]`."""


def take_rows(tensors: Tensors, rows: Rows | None) -> Tensors:
    """Return the given rows of all tensors, in the given order; None returns the tensors unchanged."""
    return tensors if rows is None else {name: values[rows] for name, values in tensors.items()}
