"""What accompanies a request through the house beside its payload: its id, the version it asks for, its deadline."""

import asyncio
import random
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import Any


@dataclass(slots=True)
class RequestContext:
    """One request under way."""

    request_id: str = ""

    requested_version: str | None = None
    """The model version that the client asked for; None for the newest that is not on trial."""

    started: float = 0.0
    """When its head was there, by `time.perf_counter`."""

    trace_id: str = ""
    """32 hexadecimal digits, if it is part of a trace."""

    client: str = ""
    """The address of the client; empty if it has none."""

    authenticated: bool = False
    """Whether the request carries a valid key."""

    status: int = 0
    """Of the answer; 0 while there is none."""

    model: str = ""
    """The model that answers it; empty while none does."""

    served_version: str = ""
    """The version of that model that answers it."""

    received: float = 0.0
    """When its body was there, by `time.perf_counter`; 0 while it is not. Likewise..."""

    decoded: float = 0.0
    """...the inputs of the model,"""

    queued: float = 0.0
    """when they came into the queue,"""

    began: float = 0.0
    """when their run, or the first of them, began..."""

    ran: float = 0.0
    """...and the last ended,"""

    computed: float = 0.0
    """when the outputs were there, of a run or kept ones,"""

    encoded: float = 0.0
    """and the answer."""

    expired: bool = False
    """Whether its deadline has passed."""

    def expire(self, task: "asyncio.Task[Any]") -> None:
        """Its deadline has passed: `task`, which works for it, is cancelled."""
        self.expired = True
        task.cancel()


NO_CALL = RequestContext()

current_call: ContextVar[RequestContext] = ContextVar("current_call", default=NO_CALL)
"""The call that the running task serves. BentoML's typed methods take the payload alone, so the rest travels here."""


def new_request_id() -> str:
    """32 hexadecimal digits that no other request has: the process', drawn at random, and a number."""
    return f"{_PROCESS}{next(_numbers):016x}"


_PROCESS = f"{random.getrandbits(64):016x}"
_numbers = count()
