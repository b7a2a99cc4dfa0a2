"""Build ONNX graphs node by node, for int8 and fused operators that no exporter writes.

Large tables are stored in files beside the graph, so that two graphs of a version share them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from service.tensors import Array, TensorSpec
from training.version import OPSET

MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""

Constant = Array | np.generic | Sequence[int]


class Graph:
    """Nodes and constants under construction; values are referred to by name."""

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[Any, ...], onnx.TensorProto] = {}
        self._tables: dict[str, Array] = {}

    def node(
        self, op: str, *inputs: str | Constant, name: str = "", outputs: int = 1, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node and return the name of its first output.

        Args:
            inputs: names of values, or constants; a sequence of integers becomes int64.
            name: of an output of the graph; other names are generated.
            outputs: number of outputs.
        """
        name = name or f"{op}_{len(self._nodes)}"
        names = [name, *(f"{name}_{number}" for number in range(1, outputs))]
        given = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self._nodes.append(helper.make_node(op, given, names, domain=domain, **attributes))
        return name

    def table(self, name: str, values: Array) -> str:
        """Add a constant that is stored in the file `<name>.bin`."""
        self._tables[name] = values
        return name

    def _constant(self, value: Constant) -> str:
        array = np.array(value, np.int64) if isinstance(value, Sequence) else np.ascontiguousarray(value)
        array = array.reshape(np.shape(value))  # a scalar stays one
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, f"constant_{len(self._constants)}")
        return self._constants[key].name

    def write(self, path: Path) -> Path:
        """Write the graph and its tables beside it, and check it."""
        for name, values in self._tables.items():
            path.with_name(f"{name}.bin").write_bytes(values.astype(values.dtype.newbyteorder("<")).tobytes())
        graph = helper.make_graph(
            self._nodes,
            path.parent.parent.name,
            [_declaration(spec) for spec in self._inputs],
            [_declaration(spec) for spec in self._outputs],
            [*self._constants.values(), *(_reference(name, values) for name, values in self._tables.items())],
        )
        versions = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=versions, ir_version=10, producer_name="deepserve")
        onnx.save(model, path)
        onnx.checker.check_model(str(path), full_check=True)
        return path


def _reference(name: str, values: Array) -> onnx.TensorProto:
    """Return the tensor that points to the table's file."""
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    place = onnx.StringStringEntryProto(key="location", value=f"{name}.bin")
    return onnx.TensorProto(
        name=name,
        data_type=kind,
        dims=values.shape,
        data_location=onnx.TensorProto.EXTERNAL,
        external_data=[place],
    )


def _declaration(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), list(spec.shape)
    )
