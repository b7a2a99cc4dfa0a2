"""The inference service: the only way for a request to reach a model, whatever protocol it came by.

Choice of the version, admission to the queue, preprocessing, batching, the cache, sampling for drift, the shadow and
the times of all stages are here, so that they are the same for every protocol.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from service.context import Deadline, RequestContext, Timings
from service.engine.batcher import Batcher
from service.engine.cache import CachedBatcher
from service.errors import Unavailable
from service.inference.request import Request, TaskRequest, TensorRequest
from service.inference.shadow import Shadow
from service.registry.registry import ModelRegistry
from service.registry.versions import LoadedVersion
from service.tasks.base import Task
from service.tensors import Tensors, take_rows
from service.traffic_split import TrafficSplit

THREADS = 2
"""Threads for slow work on requests: more large images at once would take too much memory."""
MAX_SLOW_REQUESTS = 64
"""Requests in those threads or waiting for one."""

_NO_DEADLINE = nullcontext()

T = TypeVar("T")


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
    """What the response needs besides the outputs, from `Task.preprocess` or `TensorRequest.state`."""
    timings: Timings
    """Times of all stages except the encoding of the response."""


Read = Callable[[LoadedVersion], Awaitable[Request]]
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
            DeadlineExceeded: the timeout that the body sets has passed.
            ServiceError: `read` or the preprocessing refused the request.
        """
        loaded = self._models.find(model, version, context.request_id)
        context.model, context.served_version = model, loaded.number
        loaded.cached_batcher.check_room()
        request = await read(loaded)
        is_repeatable = isinstance(request, TensorRequest) or loaded.task.is_repeatable(request.content)
        timeout = request.timeout_seconds
        with _NO_DEADLINE if timeout == math.inf else Deadline(context.started + timeout):
            batcher = loaded.cached_batcher if is_repeatable else loaded.batcher
            inference = await self._compute(loaded, request, batcher)
        loaded.drift.observe(inference.inputs, inference.outputs)
        if is_repeatable and (shadow := self._shadows.get(model)) is not None:
            shadow.offer(context.request_id, request, loaded, inference.outputs)
        return inference

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

    async def _compute(self, loaded: LoadedVersion, request: Request, batcher: Batcher | CachedBatcher) -> Inference:
        """Preprocess the request if it is a task's, run it, and select the rows that answer it."""
        if isinstance(request, TensorRequest):
            inputs, state = request.inputs, request.state
        else:
            inputs, state = await self._preprocess(loaded.task, request)
        timings = Timings(request.received, time.perf_counter())
        outputs, run = await batcher.submit(inputs)
        if run is not None:
            timings.queued, timings.started, timings.ended = run.queued_at, run.started_at, run.ended_at
        if not isinstance(request, TensorRequest) and (rows := loaded.task.select(outputs, state)) is not None:
            inputs, outputs = take_rows(inputs, rows), take_rows(outputs, rows)
        timings.computed = time.perf_counter()
        return Inference(loaded, inputs, outputs, state, timings)

    async def _preprocess(self, task: Task[Any, Any, Any], request: TaskRequest) -> tuple[Tensors, Any]:
        """Return the graph's inputs and the state for postprocessing, computed in a thread if that is slow."""
        if task.is_slow_to_preprocess(request.content):
            return await self.run_in_thread(partial(task.preprocess, request.content))
        return task.preprocess(request.content)

    async def _shadow_outputs(self, loaded: LoadedVersion, request: Request) -> Tensors:
        """Compute the outputs of a shadow, which neither the cache nor the drift monitor sees."""
        return (await self._compute(loaded, request, loaded.batcher)).outputs

    def _is_idle(self) -> bool:
        """Return whether no request is being preprocessed in a thread, waits or runs."""
        return not self._slow_requests and self._models.idle
