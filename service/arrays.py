"""What the rooms hand to each other: numbers, by name."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
"""Numbers of any dtype and shape."""

Tensors = Mapping[str, Array]
"""Named arrays that share their first dimension, the rows: one per item, in the order of the request."""
