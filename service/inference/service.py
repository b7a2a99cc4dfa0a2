"""What becomes of a request once it is known which version answers it: decode, run with others, describe.

Both doors come by here, the tasks and the tensors of V2, so that whatever is kept, copied or counted is so for both.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from service.context import RequestContext
from service.errors import Unavailable
from service.inference.shadow import Shadow
from service.registry.registry import LoadedVersion, ModelRegistry
from service.tasks.base import Answer, Payload
from service.tensors import Rows, Tensors, take_rows
from service.traffic_split import TrafficSplit

READERS = 2
"""Threads for requests that are slow to read: a few large pictures at once are all that memory should hold."""
MOST_READING = 64
"""Such requests at once, those that wait for a thread included."""

T = TypeVar("T")


class InferenceService:
    """Answers requests. Belongs to one event loop."""

    def __init__(self, models: ModelRegistry, shadows: Mapping[str, TrafficSplit]) -> None:
        """Answers by `models`, and copies a share of the requests for some of them to the versions in `shadows`."""
        self._models = models
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="read")
        self._reading = 0
        self._shadows = {
            name: Shadow(name, diversion, models, self._decode, self._is_idle) for name, diversion in shadows.items()
        }

    def find(self, name: str, context: RequestContext) -> LoadedVersion:
        """The version of a model that answers a call, which then says so.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: it is not ready.
        """
        served = self._models.find(name, context.requested_version, context.request_id)
        context.model, context.served_version = name, served.version.number
        return served

    async def answer(self, served: LoadedVersion, request: Payload, context: RequestContext) -> Answer:
        """What a version answers to a request for its task.

        Raises:
            ServiceError: the request is not valid, or there is no time or room to answer it.
        """
        inputs, facts = await self._decode(served, request)
        context.decoded = time.perf_counter()
        asked = request if served.predictor.is_repeatable(request) else None
        outputs = await self.compute(served, inputs, asked, context, partial(served.predictor.select, facts=facts))
        answer: Answer = served.predictor.describe(outputs, facts)
        return answer

    async def compute(
        self,
        served: LoadedVersion,
        inputs: Tensors,
        asked: Payload | Tensors | None,
        context: RequestContext,
        select: Callable[[Tensors], Rows | None] | None = None,
    ) -> Tensors:
        """Return the outputs of a version: of a run or, where the same request gives the same again, kept ones.

        The drift monitor and the shadow see the rows that answer the request, not those that were tried beside them.

        Args:
            served: the version.
            inputs: as its graph takes them.
            asked: what they were made of, for a shadow to make its own of; None if the same would not give them again.
            call: the one that asks.
            select: which rows answer the request, from the outputs for all; None, or a result of None, for all rows.

        Raises:
            ServiceError: there is no time or room to compute them, or it fails.
        """
        outputs = await (served.batcher if asked is None else served.cached_batcher).submit(inputs)
        if select is not None:
            rows = select(outputs)
            inputs, outputs = take_rows(inputs, rows), take_rows(outputs, rows)
        served.drift.observe(inputs, outputs)
        context.computed = time.perf_counter()
        if asked is not None and (shadow := self._shadows.get(served.version.name)) is not None:
            shadow.offer(context.request_id, asked, served, outputs)
        return outputs

    async def apart(self, work: Callable[[], T]) -> T:
        """What `work`, the reading of a large request say, returns, done in a thread.

        Raises:
            Unavailable: too much such work is under way.
        """
        if self._reading >= MOST_READING:
            raise Unavailable("Too many large requests are being read.")
        self._reading += 1
        pending = [work]
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: pending.pop()())
        finally:
            pending.clear()  # one who leaves before a thread is free takes the request along
            self._reading -= 1

    async def close(self) -> None:
        """Gives up the copies, and what waits to be read."""
        await asyncio.gather(*(shadow.close() for shadow in self._shadows.values()))
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def _decode(self, served: LoadedVersion, request: Payload) -> tuple[Tensors, Any]:
        """What a version makes of a request: its inputs, and what describing the answer takes."""
        if served.predictor.is_slow_to_decode(request):
            return await self.apart(partial(served.predictor.decode, request))
        decoded: tuple[Tensors, Any] = served.predictor.decode(request)
        return decoded

    def _is_idle(self) -> bool:
        """Whether nothing is read, nothing waits and nothing runs."""
        return not self._reading and self._models.idle
