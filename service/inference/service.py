"""The inference service: the only way for a request to reach a model, whatever protocol it came by.

Choice of the version, admission to the queue, preprocessing, batching, the cache, sampling for drift, the shadow and
the times of all stages are here, so that they are the same for every protocol.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from service.context import Deadline, RequestContext, Timings
from service.engine.batcher import Batcher
from service.engine.cache import CachedBatcher
from service.errors import Unavailable
from service.inference.shadow import Shadow
from service.registry.registry import LoadedVersion, ModelRegistry
from service.tasks.base import Payload
from service.tensors import Tensors, take_rows
from service.traffic_split import TrafficSplit

THREADS = 2
"""Threads for slow work on requests: more large images at once would take too much memory."""
MAX_SLOW_REQUESTS = 64
"""Requests in those threads or waiting for one."""

T = TypeVar("T")


@dataclass(slots=True)
class InferenceRequest:
    """A request whose body has been read and parsed."""

    content: Payload | Tensors
    """A request to the model's task, or the inputs of its graph."""
    received: float
    """When the body was received, in `time.perf_counter` seconds."""
    end: float | None = None
    """A deadline that the body sets, in `time.perf_counter` seconds; None if it sets none."""
    state: Any = None
    """What the response to graph inputs needs besides the outputs; a task makes its own."""


@dataclass(slots=True)
class Inference:
    """The result of a request."""

    loaded: LoadedVersion
    """The version that served the request."""
    inputs: Tensors
    """Inputs of the graph, only the rows that answer the request."""
    outputs: Tensors
    """Outputs of the graph for these inputs."""
    state: Any
    """What the response needs besides the outputs, from `Task.decode` or `InferenceRequest.state`."""
    timings: Timings
    """Times of all stages except the encoding of the response."""


Read = Callable[[LoadedVersion], Awaitable[InferenceRequest]]
"""Reads and parses the body of a request to a version."""


class InferenceService:
    """Serves the models of one worker. Belongs to one event loop."""

    def __init__(self, models: ModelRegistry, shadows: Mapping[str, TrafficSplit]) -> None:
        """Serve `models`, and copy a share of the requests to the versions in `shadows`, by model."""
        self._models = models
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="request")
        self._slow_requests = 0
        self._shadows = {
            name: Shadow(name, split, models, self._shadow_outputs, self._is_idle) for name, split in shadows.items()
        }

    async def infer(self, model: str, version: str | None, read: Read, context: RequestContext) -> Inference:
        """Serve a request.

        Args:
            model: name of the model.
            version: number of the version; None for the default version or the canary.
            read: reads the body, once the version is found and its queue has room.
            context: gets the model and the version as soon as they are found, for errors too.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: the version is not ready, or its queue is full.
            DeadlineExceeded: the deadline in the body passed.
            ServiceError: `read` or the preprocessing refused the request.
        """
        loaded = self._models.find(model, version, context.request_id)
        context.model, context.served_version = model, loaded.number
        loaded.cached_batcher.check_room()
        request = await read(loaded)
        if request.end is None:
            return await self._serve(loaded, request, context.request_id)
        with Deadline(request.end):
            return await self._serve(loaded, request, context.request_id)

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """Return the result of `work`, such as decoding a large image, which runs in a thread.

        Raises:
            Unavailable: too many requests have such work.
        """
        if self._slow_requests >= MAX_SLOW_REQUESTS:
            raise Unavailable("Too many large requests are being read.")
        self._slow_requests += 1
        pending = [work]
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: pending.pop()())
        finally:
            pending.clear()  # a request cancelled while it waits for a thread is freed at once
            self._slow_requests -= 1

    async def close(self) -> None:
        """Cancel the shadows and the work that waits for a thread."""
        await asyncio.gather(*(shadow.close() for shadow in self._shadows.values()))
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _serve(self, loaded: LoadedVersion, request: InferenceRequest, request_id: str) -> Inference:
        """Compute the outputs for a client, from the cache if possible, and show them to the monitors."""
        content = request.content
        repeatable = not isinstance(content, Payload) or loaded.task.is_repeatable(content)
        result = await self._compute(loaded, content, loaded.cached_batcher if repeatable else loaded.batcher)
        result.timings.received = request.received
        if result.state is None:
            result.state = request.state
        loaded.drift.observe(result.inputs, result.outputs)
        if repeatable and (shadow := self._shadows.get(loaded.name)) is not None:
            shadow.offer(request_id, content, loaded, result.outputs)
        return result

    async def _compute(
        self, loaded: LoadedVersion, content: Payload | Tensors, batcher: Batcher | CachedBatcher
    ) -> Inference:
        """Preprocess the content if it is a task's, run it, and select the rows that answer it."""
        timings = Timings()
        state = rows = None
        inputs: Tensors
        if isinstance(content, Payload):
            inputs, state = await self._preprocess(loaded, content)
        else:
            inputs = content
        timings.preprocessed = time.perf_counter()
        outputs, run = await batcher.submit(inputs)
        if run is not None:
            timings.queued, timings.started, timings.ended = run
        if isinstance(content, Payload) and (rows := loaded.task.select(outputs, state)) is not None:
            inputs, outputs = take_rows(inputs, rows), take_rows(outputs, rows)
        timings.computed = time.perf_counter()
        return Inference(loaded, inputs, outputs, state, timings)

    async def _preprocess(self, loaded: LoadedVersion, request: Payload) -> tuple[Tensors, Any]:
        """Return the graph's inputs and the state for postprocessing, computed in a thread if that is slow."""
        if loaded.task.is_slow_to_decode(request):
            return await self.run_in_thread(partial(loaded.task.decode, request))
        preprocessed: tuple[Tensors, Any] = loaded.task.decode(request)
        return preprocessed

    async def _shadow_outputs(self, loaded: LoadedVersion, content: Payload | Tensors) -> Tensors:
        """Compute the outputs of a shadow, which neither the cache nor the drift monitor sees."""
        return (await self._compute(loaded, content, loaded.batcher)).outputs

    def _is_idle(self) -> bool:
        """Return whether no request is being preprocessed in a thread, waits or runs."""
        return not self._slow_requests and self._models.idle
