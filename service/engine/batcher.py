"""Many requests in, few runs out: rows gather while a run is under way, and the next run takes them.

Batch size follows load by itself, and a lone request waits for nobody. If a run fails, its requests are tried apart,
and only the bad one's fails.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, Protocol

import numpy as np

from service.context import current_call
from service.engine.queue import Limits, Queue, Request, Slice
from service.tensors import Tensors

SHORT_RUN = 0.001
"""Seconds below which a run stays on the event loop: handing it to a thread and back costs some 0.2 ms."""

WAITS_TOLD_WITHIN = 0.01
"""Seconds within which an observer knows how many rows wait: to tell it at each arrival would cost 1.5 us a request."""


class RunTimes(NamedTuple):
    """Seconds of the stages of a run."""

    input: float
    """To stack the inputs of its requests."""
    infer: float
    """To compute, which includes the way to a thread and back."""
    output: float
    """To hand the outputs out to its requests."""


class Observer(Protocol):
    """Is told what a batcher does."""

    def waits(self, rows: int) -> None:
        """So many rows wait, or did `WAITS_TOLD_WITHIN` ago."""

    def ran(self, rows: int, times: RunTimes) -> None:
        """A run of `rows` has succeeded."""

    def answered(self, seconds: float, waited: float) -> None:
        """A request has its outputs, `seconds` after it came, of which it `waited` for a run."""

    def failed(self, seconds: float) -> None:
        """A request has failed in a run, `seconds` after it came."""


class Batcher:
    """The queue in front of one session. Belongs to one event loop; longer runs go to a thread of its own."""

    def __init__(
        self,
        run: Callable[[Tensors], Tensors],
        limits: Limits,
        sequence: str | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Batches calls of `run`.

        Args:
            run: computes the outputs of a batch; called from one thread at a time.
            limits: of a run and of the queue.
            sequence: the input whose second dimension is its length, padded with 0 on the right; None if there is none.
            observer: told of each run and of the requests that it ends.
        """
        self._run = run
        self._limits = limits
        self._sequence = sequence
        self._observer = observer
        self._queue = Queue(limits, sequence)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="run")
        self._worker: asyncio.Task[None] | None = None
        self._elements_per_second = 0.0
        """Of a run alone."""
        self._last_run_ended = 0.0
        """By `time.perf_counter`; 0 if nothing has waited since."""
        self._filled = asyncio.Event()
        """Set once a run can have all its rows."""
        self._telling: asyncio.TimerHandle | None = None
        """Will tell the observer how many rows wait."""
        self._told = 0
        """Rows that waited when it did so last."""

    async def submit(self, inputs: Tensors) -> Tensors:
        """The outputs for `inputs`, whose arrays share their first dimension, row for row.

        Cancelled, by a deadline say, the request leaves the queue.

        Args:
            inputs: named arrays, at least one row.

        Raises:
            Unavailable: the queue is full.
        """
        rows = len(next(iter(inputs.values())))
        loop = asyncio.get_running_loop()
        self.check_room(rows)
        request = Request(inputs, rows, loop.create_future(), time.perf_counter())
        self._queue.add(request)
        if self._queue.rows >= self._limits.run_rows:
            self._filled.set()
        self._tell_soon()
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        try:
            outputs = await request.answer
        except asyncio.CancelledError:
            self._queue.some_left()
            raise
        context = current_call.get()
        context.queued, context.began, context.ran = request.queued_at, request.started_at, request.ended_at
        return outputs

    def check_room(self, rows: int = 1) -> None:
        """Lets that many more rows pass if there is room for them; an idle batcher takes any request.

        Raises:
            Unavailable: the queue is full.
        """
        self._queue.check_room(rows)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return self._worker is None

    async def close(self) -> None:
        """Lets the requests in the queue finish and ends the thread."""
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        """Runs until the queue is empty."""
        try:
            while self._queue.rows:
                if self._limits.max_wait:
                    await self._wait_for_company()
                self._queue.drop_unwanted()
                self._tell_soon()
                if self._queue.rows:
                    await self._serve(self._queue.take())
                    await asyncio.sleep(0)  # let those come in who waited for a run on the loop to end
        finally:
            self._worker = None
            self._last_run_ended = 0.0

    async def _wait_for_company(self) -> None:
        """Until a run can have all its rows, at most `max_wait`."""
        if self._queue.rows < self._limits.run_rows:
            self._filled.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._filled.wait(), self._limits.max_wait)

    def _tell_soon(self) -> None:
        """Has the observer told of a change in the rows that wait, and of those that follow it closely."""
        if self._telling is None and self._observer is not None:
            self._telling = asyncio.get_running_loop().call_later(WAITS_TOLD_WITHIN, self._tell)

    def _tell(self) -> None:
        self._telling = None
        if self._observer is not None and self._told != self._queue.rows:
            self._told = self._queue.rows
            self._observer.waits(self._told)

    async def _serve(self, batch: list[Slice]) -> None:
        """Runs a batch and hands out its rows; if the run fails, each of its requests is tried apart."""
        try:
            outputs, input_seconds, infer_seconds = await self._compute(batch)
        except Exception as error:
            requests = {id(piece.request): piece.request for piece in batch}
            if len(requests) == 1:
                self._fail(batch[0].request, error)
                return
            for request in requests.values():
                if not request.answer.done():
                    await self._serve([piece for piece in batch if piece.request is request])
            return
        first = 0
        computed = time.perf_counter()
        answered: list[Request] = []
        for piece in batch:
            last = first + piece.rows
            if piece.deliver({name: value[first:last] for name, value in outputs.items()}):
                answered.append(piece.request)
            first = last
        if self._observer is not None:
            self._observer.ran(first, RunTimes(input_seconds, infer_seconds, time.perf_counter() - computed))
        self._report(answered)

    async def _compute(self, batch: list[Slice]) -> tuple[Tensors, float, float]:
        """Run a batch, off the event loop unless it is short.

        Returns:
            The outputs, and the seconds that it took to stack the inputs and to run.
        """
        rows = sum(piece.rows for piece in batch)
        started = time.perf_counter()
        elements = rows * max(1, max(piece.length for piece in batch))
        inputs = self._stack(batch)
        stacked = time.perf_counter()
        if self._elements_per_second and elements / self._elements_per_second < SHORT_RUN:
            outputs = self._run(inputs)
        else:
            outputs = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, inputs)
        ended = time.perf_counter()
        seconds = max(ended - started, 1e-6)
        if any(len(value) != rows for value in outputs.values()):
            raise ValueError(f"the outputs of {rows} rows have {[len(value) for value in outputs.values()]}")
        for piece in batch:
            piece.request.started_at = piece.request.started_at or started
            piece.request.ended_at = ended
        drained = ended - self._last_run_ended if self._last_run_ended else seconds
        self._queue.rows_per_second = _follow(self._queue.rows_per_second, rows / max(drained, 1e-6))
        self._last_run_ended = ended if self._queue.rows else 0.0
        self._elements_per_second = _follow(self._elements_per_second, elements / seconds)
        return outputs, stacked - started, ended - stacked

    def _report(self, answered: list[Request]) -> None:
        """Tells of the requests that a run has answered."""
        if self._observer is not None:
            ended = time.perf_counter()
            for each in answered:
                self._observer.answered(ended - each.queued_at, each.started_at - each.queued_at)

    def _fail(self, request: Request, error: Exception) -> None:
        if not request.answer.done():
            request.answer.set_exception(error)
            self._queue.some_left()  # other slices of it
            if self._observer is not None:
                self._observer.failed(time.perf_counter() - request.queued_at)

    def _stack(self, batch: list[Slice]) -> Tensors:
        """The inputs of a run; sequences padded to the longest among them."""
        if self._sequence is not None:
            source = [piece.request.inputs[self._sequence] for piece in batch]
            padded = np.zeros((len(batch), max(piece.length for piece in batch)), source[0].dtype)
            for row, (piece, values) in enumerate(zip(batch, source, strict=True)):
                padded[row, : piece.length] = values[piece.start, : piece.length]
            return {self._sequence: padded}
        if len(batch) == 1 and batch[0].rows == batch[0].request.rows:
            return batch[0].request.inputs
        return {
            name: np.concatenate([piece.request.inputs[name][piece.start : piece.stop] for piece in batch])
            for name in batch[0].request.inputs
        }


def _follow(pace: float, latest: float) -> float:
    """A moving average; 0 is none yet."""
    return 0.8 * pace + 0.2 * latest if pace else latest
