"""What accompanies a request: its context, its deadline, and the times of its stages."""

import asyncio
import random
import time
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Final

from service.errors import DeadlineExceeded


@dataclass(slots=True)
class Timings:
    """When the stages of a request ended, in `time.perf_counter` seconds; 0 for a stage that did not take place."""

    received: float = 0.0
    """The body was received."""
    preprocessed: float = 0.0
    """The inputs of the graph were ready."""
    queued: float = 0.0
    """The inputs entered the queue; 0 if the outputs came from the cache, as for `started` and `ended`."""
    started: float = 0.0
    """The first run with its inputs started."""
    ended: float = 0.0
    """The last run with its inputs ended."""
    computed: float = 0.0
    """The outputs of the graph were ready."""
    encoded: float = 0.0
    """The response was ready to be sent."""


@dataclass(slots=True)
class RequestContext:
    """A request in progress: what its head says, and which model serves it."""

    request_id: Final[str] = ""
    """The client's id of the request, or a new one."""

    started: Final[float] = 0.0
    """When the head of the request was received, in `time.perf_counter` seconds."""

    client: str = ""
    """Address of the client; empty if unknown."""

    trace_id: str = ""
    """Id of the trace that the request belongs to, 32 hexadecimal digits; empty if there is none."""

    authenticated: bool = False
    """Whether the request carries a valid key."""

    model: str = ""
    """Name of the model that serves the request; empty until `InferenceService.infer` has found it."""

    served_version: str = ""
    """Number of the version that serves the request."""

    timings: Timings | None = None
    """Times of the stages; None unless the request was served by a model."""

    status: int = 0
    """Status code of the response; 0 until there is one."""


class Deadline:
    """A time limit on the code in its `with` block, which is cancelled when the time is up.

    It does what `asyncio.timeout` does at a third of the cost, and raises `DeadlineExceeded`. Deadlines may be nested.
    """

    __slots__ = ("_end", "_passed", "_task", "_timer")

    def __init__(self, end: float) -> None:
        """Set the end of the block, in `time.perf_counter` seconds."""
        self._end = end
        self._passed = False

    def __enter__(self) -> None:
        """Start the timer.

        Raises:
            DeadlineExceeded: the time is up already.
        """
        remaining = self._end - time.perf_counter()
        if remaining <= 0:
            raise _exceeded()
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a running task")
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(remaining, self._cancel)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Stop the timer.

        Raises:
            DeadlineExceeded: the time was up and cancelled the block.
        """
        self._timer.cancel()
        if self._passed and kind is asyncio.CancelledError:
            self._task.uncancel()
            raise _exceeded() from error

    def _cancel(self) -> None:
        self._passed = True
        self._task.cancel()


def new_request_id() -> str:
    """Return a unique request id: 64 random bits of the process and a sequence number, as 32 hexadecimal digits."""
    return f"{_PROCESS}{next(_numbers):016x}"


_PROCESS = f"{random.getrandbits(64):016x}"
_numbers = count()


def _exceeded() -> DeadlineExceeded:
    return DeadlineExceeded("The deadline passed before the response was ready.")
