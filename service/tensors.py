"""What the rooms hand to each other: numbers, by name."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
"""Numbers of any dtype and shape."""

Tensors = Mapping[str, Array]
"""Named arrays that share their first dimension, the rows."""

Rows = npt.NDArray[np.intp]
"""Numbers of rows."""


def take_rows(tensors: Tensors, rows: Rows | None) -> Tensors:
    """Return the given rows of all tensors, in the given order; the tensors as they are for None."""
    return tensors if rows is None else {name: values[rows] for name, values in tensors.items()}
