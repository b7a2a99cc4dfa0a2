"""Tensors as the Open Inference Protocol writes them, numbers in JSON or bytes behind it: inputs held against the card
of a model, outputs as they are or as classes.

A number that its datatype cannot hold is refused, never wrapped or rounded to another kind.
"""

import math
import re
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from service.errors import Malformed
from service.tasks.base import MAX_ITEMS
from service.tensors import Array, TensorSpec

Number = int | float

DATATYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}
"""The protocol's names of a card's dtypes."""


def protocol_shape(shape: Sequence[int | str]) -> list[int]:
    """A card's shape as the protocol writes it: -1 for a free dimension."""
    return [size if isinstance(size, int) else -1 for size in shape]


def _uint8(numbers: Sequence[Any]) -> Array:
    return np.frombuffer(bytearray(numbers), np.uint8)  # half the time of `bytes`


def _int64(numbers: Sequence[Any]) -> Array:
    return np.frombuffer(array("q", numbers), np.int64)


def _float32(numbers: Sequence[Number]) -> Array:
    values = np.frombuffer(array("f", numbers), np.float32)
    if not np.isfinite(values).all():
        raise OverflowError
    return values


_READERS: dict[str, Callable[[Sequence[Any]], Array]] = {"uint8": _uint8, "int64": _int64, "float32": _float32}
"""By dtype: a flat array of JSON numbers, or TypeError, ValueError or OverflowError if one does not fit."""

_BEGINS_NESTED = re.compile(rb"\s*\[\s*\[")


class InputForm:
    """What a model takes as one of its inputs."""

    def __init__(self, spec: TensorSpec, longest: int, bounds: tuple[int, int] | None = None) -> None:
        """The form of `spec`, whose free dimensions but the first have at most `longest` elements, and whose values are
        in `bounds`.
        """
        self.name = spec.name
        self.datatype = DATATYPES[spec.dtype]
        self.shape = protocol_shape(spec.shape)
        self.most_elements = MAX_ITEMS * math.prod(size if size > 0 else longest for size in self.shape[1:])
        self._longest, self._bounds = longest, bounds
        self._length = f" A row has 1 to {longest} elements." if -1 in self.shape[1:] else ""
        self._dtype = np.dtype(spec.dtype).newbyteorder("<")
        self._read = _READERS[spec.dtype]
        self._flat = msgspec.json.Decoder(list[Number])
        nested: Any = Number
        for _ in self.shape:
            nested = list[nested]
        self._nested = msgspec.json.Decoder(nested)

    def check(self, datatype: str, shape: Sequence[int]) -> None:
        """Lets a client's tensor pass that may be this input.

        Raises:
            Malformed: its datatype or shape is not the model's, or it has more than `MAX_ITEMS` rows.
        """
        if datatype != self.datatype:
            raise Malformed(f"Input {self.name!r} is {self.datatype}, not {datatype}.")
        if len(shape) != len(self.shape) or not all(map(self._fits, shape[1:], self.shape[1:])):
            raise Malformed(f"Input {self.name!r} has the shape {self.shape}, not {list(shape)}.{self._length}")
        if not 1 <= shape[0] <= MAX_ITEMS:
            raise Malformed(f"Input {self.name!r} has {shape[0]} rows; 1 to {MAX_ITEMS} are taken.")

    def _fits(self, size: int, wanted: int) -> bool:
        return size == wanted if wanted > 0 else 1 <= size <= self._longest

    def from_json(self, data: bytes | msgspec.Raw, shape: Sequence[int]) -> Array:
        """The tensor of `shape` from JSON: its elements in row-major order, flat or in lists of lists.

        Raises:
            Malformed: it is neither, or as `from_numbers`.
        """
        nested = len(shape) > 1 and _BEGINS_NESTED.match(data)
        try:
            numbers: Any = self._nested.decode(data) if nested else self._flat.decode(data)
        except msgspec.DecodeError as error:
            raise Malformed(f"Input {self.name!r}: {error}.") from error
        if nested:
            for size in shape[1:]:
                if any(len(row) != size for row in numbers):
                    raise Malformed(f"Input {self.name!r} is not nested as {list(shape)} is.")
                numbers = list(chain.from_iterable(numbers))
        return self.from_numbers(numbers, shape)

    def from_numbers(self, numbers: Sequence[Number], shape: Sequence[int]) -> Array:
        """The tensor of `shape` from its elements in row-major order.

        Raises:
            Malformed: there are more or fewer, or one of them is none that its dtype can hold.
        """
        if len(numbers) != math.prod(shape):
            raise Malformed(f"Input {self.name!r} has {len(numbers)} elements; {list(shape)} takes {math.prod(shape)}.")
        try:
            values = self._read(numbers).reshape(shape)
        except (TypeError, ValueError, OverflowError) as error:
            raise Malformed(f"Input {self.name!r} has {self._misfit(numbers)}.") from error
        return self._within_bounds(values)

    def from_bytes(self, data: memoryview, shape: Sequence[int]) -> Array:
        """The tensor of `shape` from its elements in row-major order, little-endian.

        Raises:
            Malformed: there are more or fewer bytes.
        """
        needed = math.prod(shape) * self._dtype.itemsize
        if len(data) != needed:
            raise Malformed(f"Input {self.name!r} has {len(data)} bytes; {list(shape)} takes {needed}.")
        values = np.frombuffer(data, self._dtype).reshape(shape)
        return self._within_bounds(values if values.flags.aligned else values.copy())

    def shape_of_row(self, size: int) -> list[int]:
        """The shape of one row that takes `size` bytes; a free dimension is as long as they last."""
        known = math.prod(length for length in self.shape[1:] if length > 0)
        return [1, *(length if length > 0 else size // self._dtype.itemsize // known for length in self.shape[1:])]

    def _within_bounds(self, values: Array) -> Array:
        if self._bounds is not None:
            least, greatest = self._bounds
            if values.min() < least or values.max() > greatest:
                raise Malformed(f"Input {self.name!r} takes values from {least} to {greatest}.")
        return values

    def _misfit(self, numbers: Sequence[Number]) -> str:
        """The first element that is none of the datatype."""
        for place, number in enumerate(numbers):
            try:
                self._read([number])
            except (TypeError, ValueError, OverflowError):
                return f"{str(number)[:40]} at {place}, which is no {self.datatype}"
        raise AssertionError("every number fits")


class OutputForm:
    """What a model gives as one of its outputs."""

    def __init__(self, spec: TensorSpec, labels: Sequence[str]) -> None:
        """The form of `spec`; `labels` are those of the elements of a row, empty where they have none."""
        self.name = spec.name
        self.datatype = DATATYPES[spec.dtype]
        self.shape = protocol_shape(spec.shape)
        self._dtype = np.dtype(spec.dtype).newbyteorder("<")
        self._suffixes = [f":{label}" for label in labels]

    def to_bytes(self, values: Array) -> bytes:
        """The elements in row-major order, little-endian."""
        return values.astype(self._dtype, copy=False).tobytes()

    def classify(self, values: Array, count: int) -> list[str]:
        """The highest elements of each row as `value:index:label`, as Triton's classification extension has it.

        Args:
            values: `[rows, ...]`.
            count: how many of each row; at most as many as a row has.
        """
        rows = values.reshape(len(values), -1).tolist()
        suffixes = self._suffixes or [""] * len(rows[0])
        number = "{:f}" if values.dtype.kind == "f" else "{:d}"
        found = []
        for row in rows:
            best = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:count]
            found += [f"{number.format(row[index])}:{index}{suffixes[index]}" for index in best]
        return found


def strings_to_bytes(strings: Sequence[str]) -> bytes:
    """Strings as a tensor of datatype BYTES: each behind its length, 4 bytes."""
    encoded = [string.encode() for string in strings]
    return b"".join(len(each).to_bytes(4, "little") + each for each in encoded)
