"""Sessions of ONNX Runtime, checked against the model card and placed on the requested device."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Timer

from service.engine.onnx import cuda
from service.engine.onnx.errors import clean_message, is_out_of_memory
from service.engine.onnx.runtime import ort
from service.engine.onnx.shape_buckets import ShapeBuckets
from service.engine.queue import RUN_ELEMENTS
from service.engine.session import (
    GraphCard,
    OutOfMemoryError,
    Precision,
    Runtime,
    RunTimeoutError,
    SessionError,
)
from service.machine import GPU
from service.tensors import Tensors, TensorSpec

logger = logging.getLogger(__name__)

_DTYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32"}
_RUN = ort.RunOptions()
"""Shared options: without them, each run creates its own."""


class OnnxSession:
    """A `Session` of ONNX Runtime."""

    def __init__(self, directory: Path, card: GraphCard, runtime: Runtime) -> None:
        """Load the graph of the version in `directory`.

        Raises:
            SessionError: the graph does not load or differs from the card, or the device does not work.
        """
        self._name = f"{card.name}/{card.version}"
        self._session, self.precision = _load(directory, card, runtime)
        self.provider: str = self._session.get_providers()[0]
        self.on_gpu = self.provider in cuda.PROVIDERS.values()
        _check_signature("inputs", self._session.get_inputs(), card.inputs)
        _check_signature("outputs", self._session.get_outputs(), card.outputs)
        self._outputs = [spec.name for spec in card.outputs]
        self._max_rows = runtime.max_batch_rows
        self._buckets = ShapeBuckets(self._session, card.inputs, card.outputs) if self.on_gpu else None

    def warm_up(self, example: Tensors) -> None:
        """Run every shape that a GPU prepares for. A CPU prepares nothing by shape."""
        if self._buckets is not None:
            try:
                self._buckets.warm_up(self._max_rows, RUN_ELEMENTS, example)
            except Exception as error:
                raise SessionError(f"the run failed: {clean_message(error)}") from error

    def run(self, inputs: Tensors, time_limit_seconds: float = math.inf) -> Tensors:
        """Compute the outputs of the graph; see `Session.run`."""
        if time_limit_seconds == math.inf:
            return self._run(inputs, _RUN)
        with _time_limit(time_limit_seconds) as options:
            return self._run(inputs, options)

    def _run(self, inputs: Tensors, options: ort.RunOptions) -> Tensors:
        try:
            if self._buckets is not None:
                return self._buckets.run(inputs)
            return dict(zip(self._outputs, self._session.run(self._outputs, inputs, options), strict=True))
        except Exception as error:  # ONNX Runtime has an exception class for each kind of failure
            if options.terminate:
                raise RunTimeoutError(clean_message(error)) from error
            if is_out_of_memory(error):
                logger.warning("%s: not enough memory for a run: %s", self._name, clean_message(error))
                raise OutOfMemoryError("There is not enough memory for this request at present.") from error
            raise SessionError(f"the run failed: {clean_message(error)}") from error


def open_session(directory: Path, card: GraphCard, runtime: Runtime) -> OnnxSession:
    """Load the graph of the version in `directory`, on the device and in the precision of `runtime`.

    Raises:
        SessionError: the graph does not load or differs from the card, or the device does not work.
    """
    return OnnxSession(directory, card, runtime)


def installed_runtime() -> str:
    """Return the version of ONNX Runtime and the execution providers that it was built with."""
    return f"{ort.__version__} with {', '.join(ort.get_available_providers())}"


@contextmanager
def _time_limit(seconds: float) -> Iterator[ort.RunOptions]:
    """Yield options of a run that is cancelled after `seconds`, at the end of the node under way."""
    options = ort.RunOptions()
    timer = Timer(seconds, setattr, (options, "terminate", True))
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


def _load(directory: Path, card: GraphCard, runtime: Runtime) -> tuple[ort.InferenceSession, Precision]:
    if runtime.device == "auto":
        try:
            return _load(directory, card, replace(runtime, device="cuda"))
        except SessionError as error:
            logger.warning("%s/%s runs on CPU: %s", card.name, card.version, error)
            return _load(directory, card, replace(runtime, device="cpu"))
    if runtime.device != "cpu":
        return _load_on_gpu(directory, card, runtime.device, runtime), "float32"
    precision = card.precisions[-1] if runtime.precision == "auto" else runtime.precision
    options = _options()
    options.intra_op_num_threads = runtime.threads
    # A thread that spins while it waits takes the core from the next request.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Constant subgraphs are run, which has a time limit, instead of folded during the load, which has none.
    options.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")
    return _create(directory, card, precision, options, ["CPUExecutionProvider"]), precision


def _load_on_gpu(directory: Path, card: GraphCard, device: GPU, runtime: Runtime) -> ort.InferenceSession:
    if reason := cuda.unavailable_reason(device):
        raise SessionError(f"{device} does not work: {reason}")
    options = _options()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = cuda.providers(device, runtime.gpu_memory_mib, runtime.cuda_graphs, runtime.tensorrt_cache)
    try:
        session = _create(directory, card, "float32", options, providers)
    except SessionError as error:
        if not runtime.cuda_graphs:
            raise
        logger.info("%s/%s runs without CUDA graphs: %s", card.name, card.version, error)
        return _load_on_gpu(directory, card, device, replace(runtime, cuda_graphs=False))
    assigned = [
        (part.ep_name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    if reason := cuda.nodes_on_cpu(assigned, device):
        raise SessionError(f"{card.graphs['float32']} does not run on {device}: {reason}")
    return session


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # failures are raised; printing them too is noise
    return options


def _create(
    directory: Path, card: GraphCard, precision: Precision, options: ort.SessionOptions, providers: Sequence[object]
) -> ort.InferenceSession:
    graph = directory / card.graphs[precision]
    try:
        str(graph).encode()
    except UnicodeError as error:
        raise SessionError(f"{graph.name} does not load: its path is not UTF-8") from error
    try:
        # ONNX Runtime maps external data files into memory, and truncating a mapped file ends the process by SIGBUS.
        # Contents that are passed in are copied.
        names = list(card.external_data)
        contents = [(directory / name).read_bytes() for name in names]
        options.add_external_initializers_from_files_in_memory(names, contents, [len(content) for content in contents])
        # With the fallback, a failure on a GPU, now or in a later run, would be retried on the CPU silently.
        return ort.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime has an exception class for each kind of failure
        raise SessionError(f"{graph.name} does not load: {clean_message(error)}") from error


def _check_signature(kind: str, found: Sequence[ort.NodeArg], expected: Sequence[TensorSpec]) -> None:
    """Compare names, dtypes and fixed dimensions with the card."""
    graph = [_signature(arg.name, _DTYPES.get(arg.type, arg.type), arg.shape) for arg in found]
    card = [_signature(spec.name, spec.dtype, spec.shape) for spec in expected]
    if graph != card:
        raise SessionError(f"{kind}: the graph has {', '.join(graph) or 'none'}, the card {', '.join(card) or 'none'}")


def _signature(name: str, dtype: str, shape: Sequence[int | str | None]) -> str:
    """Return a tensor as in `tokens int64[?, ?]`. The names of free dimensions do not matter."""
    return f"{name} {dtype}[{', '.join(str(size) if isinstance(size, int) else '?' for size in shape)}]"
