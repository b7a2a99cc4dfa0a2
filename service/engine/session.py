"""The interface of a session: a graph that is loaded on a device. Implementations are in packages of their own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, Protocol, Self

from service.errors import Unavailable
from service.machine import Device
from service.settings import Settings
from service.tensors import Tensors, TensorSpec

Precision = Literal["float32", "int8"]


class SessionError(Exception):
    """The graph does not load or a run failed; the message says why, in one line without paths of this machine."""


class RunTimeoutError(SessionError):
    """A run exceeded its time limit."""


class OutOfMemoryError(SessionError, Unavailable):
    """There was not enough memory for a run. A later or smaller one may succeed."""


class Session(Protocol):
    """A graph that is loaded on a device. All methods may be called from any thread."""

    @property
    def provider(self) -> str:
        """What executes the graph, such as `CPUExecutionProvider`."""

    @property
    def on_gpu(self) -> bool:
        """Whether the graph runs on a GPU."""

    @property
    def precision(self) -> Precision:
        """Precision of the loaded graph."""

    def warm_up(self, example: Tensors) -> None:
        """Make in advance everything that the device makes once per input shape.

        Args:
            example: valid inputs of the graph. No later input is longer.

        Raises:
            SessionError: a run failed.
        """

    def run(self, inputs: Tensors, time_limit_seconds: float = math.inf) -> Tensors:
        """Compute the outputs of the graph.

        Args:
            inputs: by name, with the dtypes and shapes of the model card.
            time_limit_seconds: cancels the run at the end of a node. Runs on a GPU ignore it.

        Returns:
            The outputs by name, with as many rows as the inputs.

        Raises:
            RunTimeoutError: the run exceeded its time limit.
            OutOfMemoryError: there is not enough memory for the run.
            SessionError: the run failed for another reason.
        """


class GraphCard(Protocol):
    """The part of a model card that opening a session needs."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def version(self) -> str:
        """Number of the version."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """Inputs of the graph, in order."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Outputs of the graph, in order."""

    @property
    def precisions(self) -> Sequence[Precision]:
        """Precisions that may serve, float32 first. A CPU runs the last one by default."""

    @property
    def graphs(self) -> Mapping[Precision, str]:
        """File name of the graph in each precision."""

    @property
    def external_data(self) -> Sequence[str]:
        """Names of the files in which a graph may keep its weights."""


@dataclass(frozen=True)
class Runtime:
    """How sessions run. `Settings` describes the fields, which have the same names and units there."""

    device: Device = "cpu"
    precision: Precision | Literal["auto"] = "auto"
    threads: int = 1
    max_batch_rows: int = 64
    gpu_memory_mib: int = 0
    cuda_graphs: bool = False
    tensorrt_cache: Path | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the part of the settings that concerns sessions."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})
