"""The ways to run one graph on one device, each from arrays of the host to arrays of the host, as a server needs it.

ONNX Runtime with and without bound buffers, with recorded runs (CUDA graphs), in TF32 and in float16, by TensorRT; the
same network in torch, eager and compiled.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import torch

from load_tests.gpu.models import Model, on_torch
from service.engine.onnx import cuda as gpu
from service.engine.onnx.runtime import ort
from service.engine.onnx.shape_buckets import ShapeBuckets
from service.tensors import Tensors

Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "tf32", "float16"]
Run = Callable[[Tensors], object]


@dataclass(frozen=True)
class Way:
    """How a graph is run."""

    title: str
    open: Callable[[Model, Device], Run]
    """Makes what runs it; raises whatever its library does where it cannot."""
    precision: Precision = "float32"
    cuda_only: bool = False


def ways(device: Device) -> list[Way]:
    """All that may work on the device."""
    every = [
        Way("onnxruntime", _plain),
        Way("onnxruntime, bound", lambda model, device: _bound(model, device)),
        Way("onnxruntime, bound, recorded", lambda s, d: _bound(s, d, graphs=True), cuda_only=True),
        Way("onnxruntime, bound, TF32", lambda s, d: _bound(s, d, precision="tf32"), "tf32", cuda_only=True),
        Way("onnxruntime, bound, float16", lambda s, d: _bound(s, d, precision="float16"), "float16", cuda_only=True),
        Way(
            "onnxruntime, bound, recorded, float16",
            lambda s, d: _bound(s, d, precision="float16", graphs=True),
            "float16",
            cuda_only=True,
        ),
        Way("TensorRT, bound", lambda s, _: _tensorrt(s), cuda_only=True),
        Way("torch, eager", lambda s, d: _torch(s, d)),
        Way("torch, eager, TF32", lambda s, d: _torch(s, d, "tf32"), "tf32", cuda_only=True),
        Way("torch, eager, float16", lambda s, d: _torch(s, d, "float16"), "float16", cuda_only=True),
        Way("torch, compiled", lambda s, d: _torch(s, d, compiled=True)),
        Way("torch, compiled, float16", lambda s, d: _torch(s, d, "float16", compiled=True), "float16", cuda_only=True),
    ]
    return [way for way in every if device == "cuda" or not way.cuda_only]


def _plain(model: Model, device: Device) -> Run:
    session = _session(model.graph, device)
    return lambda inputs: session.run(None, inputs)


def _bound(model: Model, device: Device, *, precision: Precision = "float32", graphs: bool = False) -> Run:
    graph = _in_float16(model) if precision == "float16" else model.graph
    session = _session(graph, device, graphs=graphs, tf32=precision == "tf32")
    return ShapeBuckets(session, model.card.inputs, model.card.outputs, memory=device).run


def _tensorrt(model: Model) -> Run:
    if (trouble := gpu.unavailable_reason("tensorrt")) is not None:
        raise RuntimeError(trouble)
    session = _open(model.graph, gpu.providers("tensorrt"))
    return ShapeBuckets(session, model.card.inputs, model.card.outputs).run


def _session(graph: Path | bytes, device: Device, *, graphs: bool = False, tf32: bool = False) -> ort.InferenceSession:
    if device == "cpu":
        return _open(graph, [("CPUExecutionProvider", {})])
    [(provider, options)] = gpu.providers("cuda", graphs=graphs)
    return _open(graph, [(provider, options | {"use_tf32": str(int(tf32))})])


def _open(graph: Path | bytes, providers: list[tuple[str, dict[str, str]]]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(graph, options, providers=providers, enable_fallback=0)


def _in_float16(model: Model) -> bytes:
    """The graph with its weights and what lies between in float16; inputs and outputs stay as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return bytes(convert_float_to_float16(onnx.load(model.graph), keep_io_types=True).SerializeToString())


def _torch(model: Model, device: Device, precision: Precision = "float32", *, compiled: bool = False) -> Run:
    place = torch.device(device)
    network: Callable[..., object] = model.network().to(place)
    if compiled:
        torch._dynamo.reset()
        # With CUDA graphs where there is CUDA; a graph for each shape, as everybody here has.
        network = torch.compile(network, dynamic=False, mode="reduce-overhead")

    def run(inputs: Tensors) -> object:
        with torch.inference_mode(), _in(precision, place):
            found = network(*on_torch(inputs, place))
            outputs = found if isinstance(found, tuple) else (found,)
            return [each.cpu().numpy() for each in outputs]

    return run


@contextmanager
def _in(precision: Precision, place: torch.device) -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    with torch.autocast(place.type, torch.float16, enabled=precision == "float16"):
        yield
