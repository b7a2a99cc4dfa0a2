"""The least time that a run could take: what its graph moves and multiplies, by what the device was measured to do.

Counted are the multiplications and additions of convolutions, matrix products and recurrent layers, and the bytes that
must be moved however clever the kernels are: inputs, outputs and weights once, of a table that is looked up only what
is taken from it. What lies between two kernels could stay on the chip. The device's peaks are measured in the same run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from load_tests.gpu.models import Model
from service.engine.onnx.runtime import ort
from service.tensors import Tensors

Shape = tuple[int, ...]
SECONDS = 0.2
"""Of each measurement of a peak, at least."""


@dataclass(frozen=True)
class Work:
    """Of one run."""

    flops: float
    """Floating-point operations; a multiplication and its addition are two."""
    bytes: float
    nodes: int
    """Of the graph as it is on disk: each is a kernel or more, unless it is fused."""


@dataclass(frozen=True)
class Peaks:
    """What the device did in this run."""

    bytes_per_second: float
    """Read and written by a copy within its memory."""
    flops_per_second: dict[str, float]
    """Of a large matrix product: float32, and on a GPU tf32 and float16."""

    def floor(self, work: Work, precision: str) -> tuple[float, str]:
        """Seconds that the run takes at least, and what of: memory or arithmetic."""
        moving, computing = work.bytes / self.bytes_per_second, work.flops / self.flops_per_second[precision]
        return max((moving, "memory"), (computing, "arithmetic"))


def work(model: Model, inputs: Tensors) -> Work:
    """Counted on the shapes that ONNX Runtime meets between all nodes when it runs these inputs on the CPU."""
    graph = onnx.load(model.graph).graph
    weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    shapes = _shapes(model, inputs) | {name: values.shape for name, values in weights.items()}
    looked_up = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in weights]
    tables = {node.input[0] for node in looked_up}
    moved = sum(values.nbytes for values in inputs.values())
    moved += sum(values.nbytes for name, values in weights.items() if name not in tables)
    moved += sum(prod(shapes[node.output[0]]) * weights[node.input[0]].itemsize for node in looked_up)
    moved += sum(prod(shapes[spec.name]) * np.dtype(spec.dtype).itemsize for spec in model.card.outputs)
    return Work(sum(_flops(node, shapes) for node in graph.node), moved, len(graph.node))


def _shapes(model: Model, inputs: Tensors) -> dict[str, Shape]:
    """Of every tensor of the graph."""
    loaded = onnx.load(model.graph)
    known = {each.name for each in loaded.graph.output}
    between = [name for node in loaded.graph.node for name in node.output if name and name not in known]
    loaded.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in between)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(loaded.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    found = dict(zip(names, session.run(names, inputs), strict=True))
    return {name: values.shape for name, values in {**found, **inputs}.items()}


def _flops(node: onnx.NodeProto, shapes: dict[str, Shape]) -> float:
    ins, outs = ([shapes.get(name, ()) for name in names] for names in (node.input, node.output))
    match node.op_type:
        case "Conv":
            return 2.0 * prod(outs[0]) * prod(ins[1][1:])
        case "MatMul":
            return 2.0 * prod(outs[0]) * ins[0][-1]
        case "Gemm":
            flipped = any(each.name == "transA" and each.i for each in node.attribute)
            return 2.0 * prod(outs[0]) * ins[0][0 if flipped else 1]
        case "LSTM" | "GRU":
            steps, rows, width = ins[0]
            ways, gates, hidden = ins[2]
            return 2.0 * steps * rows * ways * gates * (width + hidden)
    return 0.0


def peaks(device: torch.device, size: int) -> Peaks:
    """Measures the device.

    Args:
        device: one of torch's.
        size: rows and columns of the matrices; as many bytes as one has are copied.
    """
    source = torch.empty(4 * size**2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    moved = 2 * source.numel() / _seconds(lambda: target.copy_(source), device)
    return Peaks(moved, {name: _product(device, size, name) for name in _precisions(device)})


def _precisions(device: torch.device) -> tuple[str, ...]:
    return ("float32", "tf32", "float16") if device.type == "cuda" else ("float32",)


def _product(device: torch.device, size: int, precision: str) -> float:
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = torch.float16 if precision == "float16" else torch.float32
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    try:
        return 2 * size**3 / _seconds(lambda: torch.mm(left, right), device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """What one call takes, of many."""
    for _ in range(3):
        work()
    _wait(device)
    started, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < SECONDS:
        for _ in range(5):
            work()
        _wait(device)
        calls += 5
    return elapsed / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
