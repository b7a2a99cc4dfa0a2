"""Requests to the inference service, as a protocol hands them in once their body is read and parsed."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from service.tasks import base
from service.tensors import Tensors


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A request to the task of a model."""

    timeout_seconds: ClassVar = math.inf

    content: base.Request
    received: float
    """When the body was received, in `time.perf_counter` seconds."""


@dataclass(slots=True)
class TensorRequest:
    """A request to the graph of a model."""

    inputs: Tensors
    received: float
    """When the body was received, in `time.perf_counter` seconds."""
    state: Any = None
    """What the response needs besides the outputs."""
    timeout_seconds: float = math.inf
    """A limit, set by the body, to the whole time of the request."""


Request = TaskRequest | TensorRequest
