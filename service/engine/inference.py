"""One warm ONNX Runtime session: the only room that knows ONNX Runtime, and proves which provider really runs."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.engine.card import GRAPHS, Card, Precision, TensorSpec

Tensors = Mapping[str, npt.NDArray[np.generic]]
Device = Literal["cpu", "cuda", "auto"]

logger = logging.getLogger(__name__)

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DTYPES = {"tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(float)": "float32"}


class SessionError(Exception):
    """The graph cannot be run as asked; the message says why."""


class Session:
    """One graph, ready to run on one device. `run` may be called from any thread."""

    def __init__(
        self,
        directory: Path,
        card: Card,
        device: Device = "cpu",
        threads: int = 1,
        precision: Precision | Literal["auto"] = "auto",
    ) -> None:
        """Loads the graph of a version and holds it against its card.

        Args:
            directory: of the version.
            precision: `auto` is what the card says CPUs run; CUDA runs float32 in any case.

        Raises:
            SessionError: the graph does not load, is not what the card says, or the device does not work.
        """
        wanted = card.fastest if precision == "auto" else precision
        self._session, self.precision = _open(directory, wanted, device, threads)
        self.provider: str = self._session.get_providers()[0]
        _compare("inputs", self._session.get_inputs(), card.inputs)
        _compare("outputs", self._session.get_outputs(), card.outputs)
        self._outputs = [spec.name for spec in card.outputs]

    def run(self, inputs: Tensors) -> Tensors:
        """Outputs by name, for inputs by name; all share the first dimension.

        Raises:
            SessionError: the run failed.
        """
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))
        except Exception as error:  # ONNX Runtime raises a class of its own for each kind of failure
            raise SessionError(f"the run failed: {error}") from error


def _open(
    directory: Path, precision: Precision, device: Device, threads: int
) -> tuple[ort.InferenceSession, Precision]:
    if device == "auto":
        try:
            return _open(directory, precision, "cuda", threads)
        except SessionError as error:
            logger.warning("%s runs on CPU: %s", directory, error)
            return _open(directory, precision, "cpu", threads)
    if device == "cuda":
        precision = "float32"
    graph = directory / GRAPHS[precision]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # A thread that spins while it waits takes the core from the next request.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    wanted = _PROVIDERS[device]
    if wanted not in ort.get_available_providers():
        raise SessionError(f"device {device} was asked for, but this ONNX Runtime has only {_available()}")
    try:
        session = ort.InferenceSession(graph, options, providers=[wanted])
    except Exception as error:  # ONNX Runtime raises a class of its own for each kind of failure
        reason = str(error).replace(str(graph), graph.name)
        raise SessionError(f"{graph.name} does not load: {reason}") from error
    if session.get_providers()[0] != wanted:
        raise SessionError(f"device {device} was asked for, but ONNX Runtime fell back to {session.get_providers()}")
    return session, precision


def _available() -> str:
    return ", ".join(ort.get_available_providers())


def _compare(kind: str, found: Sequence[ort.NodeArg], expected: Sequence[TensorSpec]) -> None:
    """Names, dtypes, and the dimensions that are not free."""
    graph = [(arg.name, _DTYPES.get(arg.type, arg.type), _sizes(arg.shape)) for arg in found]
    card = [(spec.name, spec.dtype, _sizes(spec.shape)) for spec in expected]
    if graph != card:
        raise SessionError(f"the graph's {kind} are {graph}, the card's {card}")


def _sizes(shape: Sequence[int | str | None]) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in shape]
