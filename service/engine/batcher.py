"""Dynamic batching: rows queue while a run is under way, and the next run takes them together.

The batch size follows the load, and a single request never waits for others. If a run fails, its requests are retried
one by one, so only the request at fault fails.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np

from service.engine.queue import Entry, Limits, Queue, RunTimings, Slice
from service.observability.observer import Observer, StageSeconds
from service.tensors import Tensors, row_count

SHORT_RUN_SECONDS = 0.001
"""Expected duration below which a run stays on the event loop: a thread and back costs some 0.2 ms."""

QUEUE_REPORT_SECONDS = 0.01
"""Seconds between reports of the queue length: a report for each arrival would cost 1.5 us a request."""

PACE_DECAY = 0.8
"""Weight of the past in the exponential moving averages of throughput."""


class Batcher:
    """The queue and the runs of one session. Belongs to one event loop; long runs go to a thread of its own."""

    def __init__(
        self,
        run: Callable[[Tensors], Tensors],
        limits: Limits,
        sequence: str | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Batch calls of `run`.

        Args:
            run: computes the outputs of a batch; called from one thread at a time.
            limits: of a run and of the queue.
            sequence: the input whose second dimension is a sequence length, padded with 0 on the right; None if there
                is none.
            observer: records runs, requests and the queue length.
        """
        self._run = run
        self._limits = limits
        self._sequence = sequence
        self._observer = observer or Observer()
        self._queue = Queue(limits, sequence)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="run")
        self._worker: asyncio.Task[None] | None = None
        self._elements_per_second = 0.0
        """Recent throughput of the runs alone, without waits between them; 0 before the first run."""
        self._last_run_ended = 0.0
        """`time.perf_counter` seconds; 0 if the queue has been empty since."""
        self._batch_is_full = asyncio.Event()
        self._report: asyncio.TimerHandle | None = None
        """The next report of the queue length."""
        self._reported_rows = 0

    async def submit(self, inputs: Tensors) -> tuple[Tensors, RunTimings]:
        """Compute the outputs for `inputs`, possibly together with other requests.

        If the caller is cancelled, by a deadline for example, the request leaves the queue.

        Args:
            inputs: named arrays that share their first dimension, of at least one row.

        Returns:
            The outputs, row for row, and the times of the request.

        Raises:
            Unavailable: the queue is full.
        """
        rows = row_count(inputs)
        loop = asyncio.get_running_loop()
        self._queue.check_room(rows)
        entry = Entry(inputs, rows, loop.create_future(), RunTimings(time.perf_counter()))
        self._queue.add(entry)
        if self._queue.rows >= self._limits.max_batch_rows:
            self._batch_is_full.set()
        self._schedule_report()
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        try:
            outputs = await entry.result
        except asyncio.CancelledError:
            self._queue.mark_done()
            raise
        return outputs, entry.timings

    def check_room(self, rows: int = 1) -> None:
        """Check that the queue has room for `rows` more rows. An idle batcher accepts a request of any size.

        Raises:
            Unavailable: the queue is full.
        """
        self._queue.check_room(rows)

    @property
    def idle(self) -> bool:
        """Whether no request waits and no run is under way."""
        return self._worker is None

    async def close(self) -> None:
        """Complete the queued requests and end the thread."""
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        """Run batches until the queue is empty."""
        try:
            while self._queue.rows:
                if self._limits.max_wait_seconds:
                    await self._wait_for_full_batch()
                self._queue.drop_done()
                self._schedule_report()
                if self._queue.rows:
                    await self._serve(self._queue.take())
                    await asyncio.sleep(0)  # admit requests that arrived during a run on the event loop
        finally:
            self._worker = None
            self._last_run_ended = 0.0

    async def _wait_for_full_batch(self) -> None:
        """Wait until a batch is full, at most `max_wait_seconds`."""
        if self._queue.rows < self._limits.max_batch_rows:
            self._batch_is_full.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._batch_is_full.wait(), self._limits.max_wait_seconds)

    def _schedule_report(self) -> None:
        """Report the queue length soon; changes until then share one report."""
        if self._report is None:
            self._report = asyncio.get_running_loop().call_later(QUEUE_REPORT_SECONDS, self._report_rows)

    def _report_rows(self) -> None:
        self._report = None
        if self._reported_rows != self._queue.rows:
            self._reported_rows = self._queue.rows
            self._observer.waits(self._reported_rows)

    async def _serve(self, batch: list[Slice]) -> None:
        """Run a batch and deliver its outputs. If the run fails, retry each of its requests alone."""
        try:
            outputs, input_seconds, infer_seconds = await self._compute(batch)
        except Exception as error:
            entries = {id(piece.entry): piece.entry for piece in batch}
            if len(entries) == 1:
                self._fail(batch[0].entry, error)
                return
            for entry in entries.values():
                if not entry.result.done():
                    await self._serve([piece for piece in batch if piece.entry is entry])
            return
        first = 0
        computed = time.perf_counter()
        completed: list[Entry] = []
        for piece in batch:
            last = first + piece.rows
            if piece.deliver({name: value[first:last] for name, value in outputs.items()}):
                completed.append(piece.entry)
            first = last
        ended = time.perf_counter()
        self._observer.ran(first, StageSeconds(input_seconds, infer_seconds, ended - computed))
        for entry in completed:
            timings = entry.timings
            self._observer.answered(ended - timings.queued_at, timings.started_at - timings.queued_at)

    async def _compute(self, batch: list[Slice]) -> tuple[Tensors, float, float]:
        """Run a batch, in the thread unless the run is expected to be short.

        Returns:
            The outputs, the seconds of stacking the inputs, and the seconds of the run.
        """
        started = time.perf_counter()
        rows = elements = sum([piece.rows for piece in batch])
        if self._sequence is not None:
            elements *= max(1, max(piece.length for piece in batch))
        inputs = self._stack(batch)
        stacked = time.perf_counter()
        if self._elements_per_second and elements / self._elements_per_second < SHORT_RUN_SECONDS:
            outputs = self._run(inputs)
        else:
            outputs = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, inputs)
        ended = time.perf_counter()
        seconds = max(ended - started, 1e-6)
        if any(len(value) != rows for value in outputs.values()):
            raise ValueError(f"the outputs of {rows} rows have {[len(value) for value in outputs.values()]}")
        for piece in batch:
            timings = piece.entry.timings
            timings.started_at = timings.started_at or started
            timings.ended_at = ended
        drained = ended - self._last_run_ended if self._last_run_ended else seconds
        self._queue.rows_per_second = _moving_average(self._queue.rows_per_second, rows / max(drained, 1e-6))
        self._last_run_ended = ended if self._queue.rows else 0.0
        self._elements_per_second = _moving_average(self._elements_per_second, elements / seconds)
        return outputs, stacked - started, ended - stacked

    def _fail(self, entry: Entry, error: Exception) -> None:
        if not entry.result.done():
            entry.result.set_exception(error)
            self._queue.mark_done()
            self._observer.failed(time.perf_counter() - entry.timings.queued_at)

    def _stack(self, batch: list[Slice]) -> Tensors:
        """Return the inputs of a run. Sequences are padded to the longest of them."""
        if self._sequence is not None:
            shape = len(batch), max(piece.length for piece in batch)
            padded = np.zeros(shape, batch[0].inputs(self._sequence).dtype)
            for row, piece in enumerate(batch):
                padded[row, : piece.length] = piece.inputs(self._sequence)[0, : piece.length]
            return {self._sequence: padded}
        if len(batch) == 1 and batch[0].rows == batch[0].entry.rows:
            return batch[0].entry.inputs
        return {name: np.concatenate([piece.inputs(name) for piece in batch]) for name in batch[0].entry.inputs}


def _moving_average(average: float, latest: float) -> float:
    """Return the exponential moving average, which starts at the first value that is not 0."""
    return PACE_DECAY * average + (1 - PACE_DECAY) * latest if average else latest
