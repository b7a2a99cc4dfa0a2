"""Runs of a session at few shapes, in buffers that stay where they are: what a GPU is fast with.

cuDNN plans anew for every shape, TensorRT builds anew, and a CUDA graph replays on the very buffers that it was
recorded with. So rows and lengths are padded with 0 up to powers of two, and each of these shapes has buffers of its
own on the device. A CPU gains nothing by it: there a session takes every shape as it is.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product
from math import prod
from typing import Literal

import numpy as np

from service.engine.onnx.runtime import ort
from service.registry.card import TensorSpec
from service.tensors import Array, Tensors

BATCH = "batch"
"""The dimension that is the rows."""
SHORTEST = 16
"""Sequences are padded to no less."""

_RUNS_TO_RECORD = 3
"""Runs of a shape until its CUDA graph is recorded: the first ones allocate."""


def padded_size(name: str, size: int) -> int:
    """What a dimension of that name and size is padded to: 1, 2, 4, ... rows; 16, 32, 64, ... of a sequence."""
    return int(max(1 if name == BATCH else SHORTEST, 1 << (size - 1).bit_length()))


@dataclass(frozen=True)
class Bound:
    """The buffers of one shape, bound to the session for good."""

    host: dict[str, Array]
    device: dict[str, ort.OrtValue]
    binding: ort.IOBinding
    options: ort.RunOptions


class ShapeBuckets:
    """A session whose inputs and outputs stay in bound buffers. Calls from several threads take turns."""

    def __init__(
        self,
        session: ort.InferenceSession,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        memory: Literal["cuda", "cpu"] = "cuda",
    ) -> None:
        """Binds nothing yet.

        Args:
            session: of a graph with these inputs and outputs.
            inputs: as the card has them.
            outputs: likewise; each of their free dimensions is one of the inputs' too.
            memory: where the buffers are.
        """
        self._session, self._inputs, self._outputs, self._memory = session, inputs, outputs, memory
        self._bound: dict[tuple[int, ...], Bound] = {}
        self._graphs = count(1)
        self._lock = threading.Lock()

    def warm(self, rows: int, elements: int, like: Tensors) -> None:
        """Runs every shape that a run can have.

        Those with most rows, with the longest sequences and the smallest come first: memory grows to its most at once,
        and TensorRT, which builds anew beyond what it has seen, builds no more for all between.

        Args:
            rows: most of a run.
            elements: most of a run of sequences, unless it is of a single row.
            like: valid inputs of the graph, as long as sequences can be.
        """
        largest = self._sizes(like) | {BATCH: padded_size(BATCH, rows)}
        every = product(*(_doublings(padded_size(name, 1), size) for name, size in largest.items()))
        shapes = [shape for shape in every if _fits(dict(zip(largest, shape, strict=True)), elements)]
        corners = [max(shapes, key=lambda shape: (shape[axis], prod(shape))) for axis in range(len(largest))]
        for shape in dict.fromkeys([*corners, *shapes]):
            sizes = dict(zip(largest, shape, strict=True))
            inputs = {spec.name: np.resize(like[spec.name], _shape(spec, sizes)) for spec in self._inputs}
            for _ in range(_RUNS_TO_RECORD):
                self.run(inputs)

    def run(self, inputs: Tensors) -> Tensors:
        """Outputs by name, for inputs by name, row for row."""
        rows = len(next(iter(inputs.values())))
        sizes = self._sizes(inputs)
        with self._lock:
            shape = tuple(sizes.values())
            bound = self._bound.pop(shape, None) or self._bind(sizes)
            for name, values in inputs.items():
                padded = bound.host[name]
                padded.fill(0)
                padded[tuple(map(slice, values.shape))] = values
                bound.device[name].update_inplace(padded)
            self._session.run_with_iobinding(bound.binding, bound.options)
            found = bound.binding.copy_outputs_to_cpu()
            self._bound[shape] = bound  # a shape for which there was no memory keeps none
        return {spec.name: values[:rows] for spec, values in zip(self._outputs, found, strict=True)}

    def _sizes(self, inputs: Tensors) -> dict[str, int]:
        """Each free dimension by name, padded."""
        return {
            name: padded_size(name, size)
            for spec in self._inputs
            for name, size in zip(spec.shape, inputs[spec.name].shape, strict=True)
            if isinstance(name, str)
        }

    def _bind(self, sizes: Mapping[str, int]) -> Bound:
        binding, options = self._session.io_binding(), ort.RunOptions()
        host = {spec.name: np.zeros(_shape(spec, sizes), spec.dtype) for spec in self._inputs}
        device = {name: ort.OrtValue.ortvalue_from_numpy(values, self._memory, 0) for name, values in host.items()}
        for name, value in device.items():
            binding.bind_ortvalue_input(name, value)
        for spec in self._outputs:
            shape, dtype = _shape(spec, sizes), np.dtype(spec.dtype).type
            value = ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self._memory, 0)
            binding.bind_ortvalue_output(spec.name, value)
        options.add_run_config_entry("gpu_graph_id", str(next(self._graphs)))  # a CUDA graph of its own
        return Bound(host, device, binding, options)


def _doublings(least: int, most: int) -> list[int]:
    return [least << times for times in range((most // least).bit_length())]


def _fits(sizes: Mapping[str, int], elements: int) -> bool:
    """Whether some run is padded to these sizes: one row or no sequences, or no more than `elements` before padding."""
    fewest = [1 if size == padded_size(name, 1) else size // 2 + 1 for name, size in sizes.items()]
    return sizes[BATCH] == 1 or sizes.keys() == {BATCH} or prod(fewest) <= elements


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> list[int]:
    return [sizes[size] if isinstance(size, str) else size for size in spec.shape]
