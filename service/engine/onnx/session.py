"""One warm ONNX Runtime session: a graph that is what its card says, and runs on the device that was asked for."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Timer
from typing import Literal

from service.engine.onnx import cuda as gpu
from service.engine.onnx.errors import lacks_memory, readable
from service.engine.onnx.runtime import ort
from service.engine.onnx.shape_buckets import ShapeBuckets
from service.engine.queue import RUN_ELEMENTS
from service.errors import Unavailable
from service.machine import GPU, Device
from service.registry.card import GOLDEN, GRAPHS, Card, Precision, TensorSpec
from service.tensors import Tensors

logger = logging.getLogger(__name__)

_DTYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32"}
_RUN = ort.RunOptions()
"""Made once: without, every run makes its own."""


class SessionError(Exception):
    """The graph cannot be run as asked; the message says why."""


class BrokenOffError(SessionError):
    """The run took longer than it may."""


class NoMemoryError(SessionError, Unavailable):
    """There was no memory for the run: later, or with fewer rows, there may be."""


@contextmanager
def within(seconds: float) -> Iterator[ort.RunOptions]:
    """Options of runs on CPU that end, the one under way at the end of its node, once `seconds` are over."""
    options = ort.RunOptions()
    timer = Timer(seconds, setattr, (options, "terminate", True))
    timer.start()
    try:
        yield options
    finally:
        timer.cancel()


@dataclass(frozen=True)
class Runtime:
    """What sessions run on, and how."""

    device: Device = "cpu"
    """`auto` is CUDA, or CPU where that does not work."""
    precision: Precision | Literal["auto"] = "auto"
    """`auto` is what the card says CPUs run; a GPU runs float32 in any case."""
    threads: int = 1
    """Of one run on CPU."""
    max_batch_rows: int = 64
    """Most rows of one run; a GPU is warmed for all up to it."""
    gpu_memory: int = 0
    """MiB that a session may take on a GPU; 0 for no limit."""
    cuda_graphs: bool = False
    """Whether a GPU replays recorded runs where a graph allows it."""
    tensorrt_cache: Path | None = None
    """Where TensorRT keeps the engines that it builds."""


class Session:
    """One graph, ready to run on one device. `run` may be called from any thread."""

    def __init__(self, directory: Path, card: Card, runtime: Runtime) -> None:
        """Loads the graph of the version in `directory` and holds it against its card.

        Raises:
            SessionError: the graph does not load, is not what the card says, or the device does not work.
        """
        self._name = f"{card.name}/{card.version}"
        self._session, self.precision = _open(directory, card, runtime)
        self.provider: str = self._session.get_providers()[0]
        _compare("inputs", self._session.get_inputs(), card.inputs)
        _compare("outputs", self._session.get_outputs(), card.outputs)
        self._outputs = [spec.name for spec in card.outputs]
        self._max_rows = runtime.max_batch_rows
        on_gpu = self.provider in gpu.PROVIDERS.values()
        self._shapes = ShapeBuckets(self._session, card.inputs, card.outputs) if on_gpu else None

    def warm(self, like: Tensors) -> None:
        """Makes all that the device makes once for each shape, up to the lengths of `like`, valid inputs.

        Raises:
            SessionError: a run failed.
        """
        if self._shapes is not None:
            try:
                self._shapes.warm(self._max_rows, RUN_ELEMENTS, like)
            except Exception as error:
                raise SessionError(f"the run failed: {readable(error)}") from error

    def run(self, inputs: Tensors, options: ort.RunOptions = _RUN) -> Tensors:
        """Outputs by name, for inputs by name; all share the first dimension.

        Args:
            inputs: as on the card.
            options: as of `within`; of no effect on a GPU, where each shape has its own.

        Raises:
            BrokenOffError: `options` allow no more time.
            NoMemoryError: there is no memory for the run, which those who ask again may find.
            SessionError: the run failed.
        """
        try:
            if self._shapes is not None:
                return self._shapes.run(inputs)
            return dict(zip(self._outputs, self._session.run(self._outputs, inputs, options), strict=True))
        except Exception as error:  # ONNX Runtime raises a class of its own for each kind of failure
            if options.terminate:
                raise BrokenOffError(readable(error)) from error
            if lacks_memory(error):
                logger.warning("%s found no memory for a run: %s", self._name, readable(error))
                raise NoMemoryError("There is not enough memory for this request at present.") from error
            raise SessionError(f"the run failed: {readable(error)}") from error


def runtime_found() -> str:
    """ONNX Runtime as it is installed: its version, and what it could run on."""
    return f"{ort.__version__} with {', '.join(ort.get_available_providers())}"


def _open(directory: Path, card: Card, runtime: Runtime) -> tuple[ort.InferenceSession, Precision]:
    if runtime.device == "auto":
        try:
            return _open(directory, card, replace(runtime, device="cuda"))
        except SessionError as error:
            logger.warning("%s/%s runs on CPU: %s", card.name, card.version, error)
            return _open(directory, card, replace(runtime, device="cpu"))
    if runtime.device != "cpu":
        return _open_on_gpu(directory, card, runtime.device, runtime), "float32"
    precision = card.precisions[-1] if runtime.precision == "auto" else runtime.precision
    options = _options()
    options.intra_op_num_threads = runtime.threads
    # A thread that spins while it waits takes the core from the next request.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # What a graph computes of constants is run, where it can be broken off, and not folded while it loads, where not.
    options.add_session_config_entry("optimization.disable_specified_optimizers", "ConstantFolding")
    return _start(directory, card, precision, options, ["CPUExecutionProvider"]), precision


def _open_on_gpu(directory: Path, card: Card, device: GPU, runtime: Runtime) -> ort.InferenceSession:
    if reason := gpu.trouble(device):
        raise SessionError(f"{device} does not work: {reason}")
    options = _options()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    chosen = gpu.providers(device, runtime.gpu_memory, runtime.cuda_graphs, runtime.tensorrt_cache)
    try:
        session = _start(directory, card, "float32", options, chosen)
    except SessionError as error:
        if not runtime.cuda_graphs:
            raise
        logger.info("%s/%s runs without CUDA graphs: %s", card.name, card.version, error)
        return _open_on_gpu(directory, card, device, replace(runtime, cuda_graphs=False))
    assigned = [
        (part.ep_name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    if reason := gpu.nodes_on_cpu(assigned, device):
        raise SessionError(f"{GRAPHS['float32']} does not run on {device}: {reason}")
    return session


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what fails is raised, and need not be printed too
    return options


def _start(
    directory: Path, card: Card, precision: Precision, options: ort.SessionOptions, providers: Sequence[object]
) -> ort.InferenceSession:
    graph = directory / GRAPHS[precision]
    try:
        str(graph).encode()
    except UnicodeError as error:
        raise SessionError(f"{graph.name} does not load: its path is not UTF-8") from error
    try:
        # ONNX Runtime maps the files in which a graph keeps weights, and a mapped file that is truncated ends the
        # process by SIGBUS. It copies what it is given here.
        names = sorted(card.files.keys() - {*GRAPHS.values(), GOLDEN})
        contents = [(directory / name).read_bytes() for name in names]
        options.add_external_initializers_from_files_in_memory(names, contents, [len(content) for content in contents])
        # Else what fails on a GPU, now or in a later run, is tried again on the CPU without a word.
        return ort.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime raises a class of its own for each kind of failure
        raise SessionError(f"{graph.name} does not load: {readable(error)}") from error


def _compare(kind: str, found: Sequence[ort.NodeArg], expected: Sequence[TensorSpec]) -> None:
    """Names, dtypes, and the dimensions that are not free."""
    graph = [_tensor(arg.name, _DTYPES.get(arg.type, arg.type), arg.shape) for arg in found]
    card = [_tensor(spec.name, spec.dtype, spec.shape) for spec in expected]
    if graph != card:
        raise SessionError(f"{kind}: the graph has {', '.join(graph) or 'none'}, the card {', '.join(card) or 'none'}")


def _tensor(name: str, dtype: str, shape: Sequence[int | str | None]) -> str:
    """As in `tokens int64[?, ?]`: what a free dimension is called does not matter."""
    return f"{name} {dtype}[{', '.join(str(size) if isinstance(size, int) else '?' for size in shape)}]"
