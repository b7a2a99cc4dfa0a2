"""Runs with padded shapes and fixed buffers, for GPUs.

For each new input shape cuDNN chooses algorithms and TensorRT builds an engine, and a CUDA graph replays on the buffers
with which it was recorded. So rows and sequence lengths are padded with 0 to powers of two, and each padded shape, a
bucket, has its own buffers on the device. On a CPU every shape runs as it is.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, product
from math import prod
from typing import Literal

import numpy as np

from service.engine.onnx.runtime import ort
from service.tensors import Array, Tensors, TensorSpec, row_count

BATCH = "batch"
"""Name of the dimension of the rows."""
MIN_LENGTH = 16
"""Smallest padded sequence length."""

_RUNS_TO_RECORD = 3
"""Runs of a shape until its CUDA graph is recorded: the first ones allocate memory."""


def padded_size(name: str, size: int) -> int:
    """Return the padded size of a dimension: 1, 2, 4, ... rows; sequence lengths of 16, 32, 64, ..."""
    return int(max(1 if name == BATCH else MIN_LENGTH, 1 << (size - 1).bit_length()))


@dataclass(frozen=True)
class Bucket:
    """The buffers of one padded shape, bound to the session."""

    host: dict[str, Array]
    device: dict[str, ort.OrtValue]
    binding: ort.IOBinding
    options: ort.RunOptions


class ShapeBuckets:
    """A session with a bucket for each padded shape. Concurrent calls run one after the other."""

    def __init__(
        self,
        session: ort.InferenceSession,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        memory: Literal["cuda", "cpu"] = "cuda",
    ) -> None:
        """Bind nothing yet.

        Args:
            session: runs the graph.
            inputs: of the graph, as on the model card.
            outputs: of the graph; each free dimension of them is also one of an input.
            memory: where the buffers are.
        """
        self._session, self._inputs, self._outputs, self._memory = session, inputs, outputs, memory
        self._buckets: dict[tuple[int, ...], Bucket] = {}
        self._graph_ids = count(1)
        self._lock = threading.Lock()

    def warm_up(self, max_rows: int, max_elements: int, example: Tensors) -> None:
        """Run every padded shape that requests can have.

        The shape with most rows, the one with the longest sequences, and the smallest ones run first: memory then grows
        to its maximum at once, and TensorRT, whose engine covers the range of shapes it has seen, builds no further one
        for the shapes between.

        Args:
            max_rows: most rows of a run.
            max_elements: most elements of a run of sequences, except for a single row.
            example: valid inputs of the graph. No later sequence is longer.
        """
        largest = self._padded_sizes(example) | {BATCH: padded_size(BATCH, max_rows)}
        all_shapes = product(*(_doublings(padded_size(name, 1), size) for name, size in largest.items()))
        shapes = [shape for shape in all_shapes if _is_reachable(dict(zip(largest, shape, strict=True)), max_elements)]
        corners = [max(shapes, key=lambda shape: (shape[axis], prod(shape))) for axis in range(len(largest))]
        for shape in dict.fromkeys([*corners, *shapes]):
            sizes = dict(zip(largest, shape, strict=True))
            inputs = {spec.name: np.resize(example[spec.name], _shape(spec, sizes)) for spec in self._inputs}
            for _ in range(_RUNS_TO_RECORD):
                self.run(inputs)

    def run(self, inputs: Tensors) -> Tensors:
        """Return the outputs by name, row for row."""
        rows = row_count(inputs)
        sizes = self._padded_sizes(inputs)
        with self._lock:
            shape = tuple(sizes.values())
            bucket = self._buckets.pop(shape, None) or self._bind(sizes)
            for name, values in inputs.items():
                padded = bucket.host[name]
                padded.fill(0)
                padded[tuple(map(slice, values.shape))] = values
                bucket.device[name].update_inplace(padded)
            self._session.run_with_iobinding(bucket.binding, bucket.options)
            outputs = bucket.binding.copy_outputs_to_cpu()
            self._buckets[shape] = bucket  # only now: a bucket whose run fails is freed
        return {spec.name: values[:rows] for spec, values in zip(self._outputs, outputs, strict=True)}

    def _padded_sizes(self, inputs: Tensors) -> dict[str, int]:
        """Return the padded size of each free dimension, by name."""
        return {
            name: padded_size(name, size)
            for spec in self._inputs
            for name, size in zip(spec.shape, inputs[spec.name].shape, strict=True)
            if isinstance(name, str)
        }

    def _bind(self, sizes: Mapping[str, int]) -> Bucket:
        binding, options = self._session.io_binding(), ort.RunOptions()
        host = {spec.name: np.zeros(_shape(spec, sizes), spec.dtype) for spec in self._inputs}
        device = {name: ort.OrtValue.ortvalue_from_numpy(values, self._memory, 0) for name, values in host.items()}
        for name, value in device.items():
            binding.bind_ortvalue_input(name, value)
        for spec in self._outputs:
            shape, dtype = _shape(spec, sizes), np.dtype(spec.dtype).type
            value = ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self._memory, 0)
            binding.bind_ortvalue_output(spec.name, value)
        options.add_run_config_entry("gpu_graph_id", str(next(self._graph_ids)))  # a CUDA graph for each bucket
        return Bucket(host, device, binding, options)


def _doublings(smallest: int, largest: int) -> list[int]:
    return [smallest << times for times in range((largest // smallest).bit_length())]


def _is_reachable(sizes: Mapping[str, int], max_elements: int) -> bool:
    """Return whether some run is padded to these sizes: it has one row, no sequences, or few enough elements."""
    smallest = [1 if size == padded_size(name, 1) else size // 2 + 1 for name, size in sizes.items()]
    return sizes[BATCH] == 1 or sizes.keys() == {BATCH} or prod(smallest) <= max_elements


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> list[int]:
    return [sizes[size] if isinstance(size, str) else size for size in spec.shape]
