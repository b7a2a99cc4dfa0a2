"""Tensors as the Open Inference Protocol writes them: numbers in JSON or bytes behind it, held against a model's card.

A number that its datatype cannot hold is refused, never wrapped or rounded to another kind.
"""

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from service.engine.card import TensorSpec
from service.errors import Malformed
from service.predictors import MAX_ITEMS

Array = npt.NDArray[np.generic]
Number = int | float

DATATYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}
"""The protocol's names of a card's dtypes."""


def _uint8(numbers: Sequence[Any]) -> Array:
    return np.frombuffer(bytes(numbers), np.uint8)


def _int64(numbers: Sequence[Any]) -> Array:
    return np.frombuffer(array("q", numbers), np.int64)


def _float32(numbers: Sequence[Number]) -> Array:
    values = np.frombuffer(array("f", numbers), np.float32)
    if not np.isfinite(values).all():
        raise OverflowError
    return values


_READERS: dict[str, Callable[[Sequence[Any]], Array]] = {"uint8": _uint8, "int64": _int64, "float32": _float32}
"""By dtype: a flat array of JSON numbers, or TypeError, ValueError or OverflowError if one does not fit."""


@dataclass(frozen=True)
class TensorForm:
    """What a model takes as one of its inputs."""

    spec: TensorSpec
    longest: int
    """Most elements of a dimension whose size is free."""

    @property
    def datatype(self) -> str:
        """As the protocol calls it."""
        return DATATYPES[self.spec.dtype]

    def check(self, datatype: str, shape: Sequence[int]) -> None:
        """Whether a client's tensor may be an input.

        Raises:
            Malformed: its datatype or shape is not the model's, or it has more than `MAX_ITEMS` rows.
        """
        name, expected = self.spec.name, self.spec.shape
        if datatype != self.datatype:
            raise Malformed(f"Input {name!r} is {self.datatype}, not {datatype}.")
        if len(shape) != len(expected) or any(
            size != wanted for size, wanted in zip(shape[1:], expected[1:], strict=True) if isinstance(wanted, int)
        ):
            raise Malformed(f"Input {name!r} has the shape {_shape(expected)}, not {_shape(shape)}.")
        if not 1 <= shape[0] <= MAX_ITEMS:
            raise Malformed(f"Input {name!r} has {shape[0]} rows; 1 to {MAX_ITEMS} are taken.")
        if not all(1 <= size <= self.longest for size in shape[1:]):
            raise Malformed(f"Input {name!r} is {_shape(shape)}; 1 to {self.longest} elements are taken a row.")

    def from_numbers(self, numbers: Sequence[Any], shape: Sequence[int]) -> Array:
        """The tensor of `shape`, from its elements in row-major order, flat or in lists of lists.

        Raises:
            Malformed: there are more or fewer, or one of them is none that its dtype can hold.
        """
        if numbers and isinstance(numbers[0], list):
            numbers = self._flat(numbers, shape)
        if len(numbers) != math.prod(shape):
            raise Malformed(f"Input {self.spec.name!r} has {len(numbers)} elements; {_shape(shape)} needs others.")
        try:
            return _READERS[self.spec.dtype](numbers).reshape(shape)
        except (TypeError, ValueError, OverflowError) as error:
            raise Malformed(f"Input {self.spec.name!r} has {self._misfit(numbers)}.") from error

    def from_bytes(self, data: memoryview, shape: Sequence[int]) -> Array:
        """The tensor of `shape`, from its elements in row-major order, little-endian.

        Raises:
            Malformed: there are more or fewer bytes.
        """
        dtype = np.dtype(self.spec.dtype).newbyteorder("<")
        needed = math.prod(shape) * dtype.itemsize
        if len(data) != needed:
            raise Malformed(f"Input {self.spec.name!r} has {len(data)} bytes; {_shape(shape)} takes {needed}.")
        return np.frombuffer(data, dtype).reshape(shape)

    def _flat(self, rows: Sequence[Any], shape: Sequence[int]) -> list[Any]:
        """Lists of lists, each as long as `shape` says, as one."""
        level: list[Any] = list(rows)
        for size in shape[1:]:
            if any(not isinstance(row, list) or len(row) != size for row in level):
                raise Malformed(f"Input {self.spec.name!r} is not nested as {_shape(shape)} is.")
            level = list(chain.from_iterable(level))
        return level

    def _misfit(self, numbers: Sequence[Any]) -> str:
        """The first element that is none of the datatype."""
        reader = _READERS[self.spec.dtype]
        for place, number in enumerate(numbers):
            try:
                reader([number])
            except (TypeError, ValueError, OverflowError):
                return f"{str(number)[:40]} at {place}, which is no {self.datatype}"
        raise AssertionError("every number fits")


def _shape(shape: Sequence[int | str]) -> str:
    """`[-1, 28, 28]`: a free dimension is -1 in the protocol."""
    return str([size if isinstance(size, int) else -1 for size in shape])
