"""The inputs and outputs of a model as the Open Inference Protocol writes them: numbers in JSON, or bytes.

A number that a datatype cannot hold is refused, never wrapped or rounded to another kind.
"""

import math
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from service.api.v2.schema import DATATYPES, protocol_shape
from service.errors import Malformed
from service.tasks.base import MAX_ITEMS
from service.tensors import Array, TensorSpec


def _uint8(numbers: Sequence[Any]) -> Array:
    return np.frombuffer(bytearray(numbers), np.uint8)  # half the time of `bytes`


def _int64(numbers: Sequence[Any]) -> Array:
    return np.frombuffer(array("q", numbers), np.int64)


def _float32(numbers: Sequence[Any]) -> Array:
    values = np.frombuffer(array("f", numbers), np.float32)
    if not np.isfinite(values).all():
        raise OverflowError
    return values


_FROM_NUMBERS: dict[str, Callable[[Sequence[Any]], Array]] = {"uint8": _uint8, "int64": _int64, "float32": _float32}
"""Functions that make a flat array of numbers, by dtype.

They raise TypeError, ValueError or OverflowError if the dtype cannot hold a number.
"""


class ModelInput:
    """An input of a model."""

    def __init__(self, spec: TensorSpec, max_length: int, bounds: tuple[int, int] | None = None) -> None:
        """Create an input.

        Args:
            spec: its name, dtype and shape.
            max_length: the largest size of a variable dimension that is not the first.
            bounds: its least and greatest value, if it has them.
        """
        self.name = spec.name
        self.datatype = DATATYPES[spec.dtype]
        self.shape = protocol_shape(spec.shape)
        self.max_elements = MAX_ITEMS * math.prod(size if size > 0 else max_length for size in self.shape[1:])
        self._max_length, self._bounds = max_length, bounds
        self._dtype = np.dtype(spec.dtype).newbyteorder("<")
        self._from_numbers = _FROM_NUMBERS[spec.dtype]

    def check(self, datatype: str, shape: Sequence[int]) -> None:
        """Check the datatype and the shape of a tensor that a client sends as this input.

        Raises:
            Malformed: they are not the model's, or there are no rows or more than `MAX_ITEMS`.
        """
        if datatype != self.datatype:
            raise Malformed(f"Input {self.name!r} is {self.datatype}, not {datatype}.")
        if len(shape) != len(self.shape) or not all(map(self._fits, shape[1:], self.shape[1:])):
            variable = f" -1 stands for 1 to {self._max_length}." if -1 in self.shape[1:] else ""
            raise Malformed(f"Input {self.name!r} has the shape {self.shape}, not {list(shape)}.{variable}")
        if not 1 <= shape[0] <= MAX_ITEMS:
            raise Malformed(f"Input {self.name!r} has {shape[0]} rows; it may have 1 to {MAX_ITEMS}.")

    def from_elements(self, elements: Sequence[Any], shape: Sequence[int]) -> Array:
        """Return a tensor from its elements in row-major order, in a flat list or nested as its shape is.

        Raises:
            Malformed: there are more or fewer elements, they are nested otherwise, or the datatype cannot hold one.
        """
        if elements and isinstance(elements[0], list):
            elements = self._flat(elements, shape)
        if len(elements) != math.prod(shape):
            raise Malformed(
                f"Input {self.name!r} has {len(elements)} elements; {list(shape)} needs {math.prod(shape)}."
            )
        try:
            values = self._from_numbers(elements).reshape(shape)
        except (TypeError, ValueError, OverflowError) as error:
            raise Malformed(
                f"Input {self.name!r}: {self._misfit(elements)}, which {self.datatype} cannot hold."
            ) from error
        return self._within_bounds(values)

    def from_bytes(self, data: memoryview, shape: Sequence[int]) -> Array:
        """Return a tensor from its elements in row-major order, little-endian.

        Raises:
            Malformed: there are more or fewer bytes.
        """
        needed = math.prod(shape) * self._dtype.itemsize
        if len(data) != needed:
            raise Malformed(f"Input {self.name!r} has {len(data)} bytes; {list(shape)} needs {needed}.")
        values = np.frombuffer(data, self._dtype).reshape(shape)
        return self._within_bounds(values if values.flags.aligned else values.copy())

    def row_from_bytes(self, data: memoryview) -> Array:
        """Return a tensor of one row, whose variable dimension is as long as the bytes say."""
        fixed = math.prod(size for size in self.shape[1:] if size > 0)
        shape = [1, *(size if size > 0 else len(data) // self._dtype.itemsize // fixed for size in self.shape[1:])]
        self.check(self.datatype, shape)
        return self.from_bytes(data, shape)

    def _fits(self, size: int, expected: int) -> bool:
        return size == expected if expected > 0 else 1 <= size <= self._max_length

    def _flat(self, rows: Sequence[Any], shape: Sequence[int]) -> Sequence[Any]:
        for size in shape[1:]:
            if not all(isinstance(row, list) and len(row) == size for row in rows):
                raise Malformed(f"Input {self.name!r} is not nested as its shape {list(shape)} is.")
            rows = list(chain.from_iterable(rows))
        return rows

    def _within_bounds(self, values: Array) -> Array:
        if self._bounds is not None:
            least, greatest = self._bounds
            if values.min() < least or values.max() > greatest:
                raise Malformed(f"Input {self.name!r} takes values from {least} to {greatest}.")
        return values

    def _misfit(self, elements: Sequence[Any]) -> str:
        """Describe the first element that the datatype cannot hold."""
        for index, element in enumerate(elements):
            try:
                self._from_numbers([element])
            except (TypeError, ValueError, OverflowError):
                return f"element {index} is {str(element)[:40]}"
        raise AssertionError("every element fits")


class ModelOutput:
    """An output of a model."""

    def __init__(self, spec: TensorSpec, labels: Sequence[str] = ()) -> None:
        """Create an output; `labels` name the elements of a row, if they have names."""
        self.name = spec.name
        self.datatype = DATATYPES[spec.dtype]
        self._dtype = np.dtype(spec.dtype).newbyteorder("<")
        self._suffixes = [f":{label}" for label in labels]

    def to_bytes(self, values: Array) -> bytes:
        """Return the elements in row-major order, little-endian."""
        return values.astype(self._dtype, copy=False).tobytes()

    def classify(self, values: Array, count: int) -> list[str]:
        """Return the highest elements of each row as `value:index:label` (Triton's classification extension).

        Args:
            values: `[rows, ...]`.
            count: the number of elements of each row; at most all are returned.
        """
        rows = values.reshape(len(values), -1).tolist()
        suffixes = self._suffixes or [""] * len(rows[0])
        number = "{:f}" if values.dtype.kind == "f" else "{:d}"
        classes = []
        for row in rows:
            highest = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:count]
            classes += [f"{number.format(row[index])}:{index}{suffixes[index]}" for index in highest]
        return classes


def strings_to_bytes(strings: Sequence[str]) -> bytes:
    """Return strings as a tensor of datatype BYTES: each after its length, 4 bytes."""
    encoded = [string.encode() for string in strings]
    return b"".join(len(each).to_bytes(4, "little") + each for each in encoded)
