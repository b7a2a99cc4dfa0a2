"""Many requests in, few runs out: rows gather while a run is under way, and the next run takes them.

Batch size follows load by itself, and a lone request waits for nobody. The queue is bounded in rows. A request that
nobody waits for any more, because its deadline passed or its client left, is dropped before it costs a run; if a run
fails, its requests are tried apart, and only the bad one's fails. Sequences run with others of about their length, so
that a long one does not pad many short ones.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from service.arrays import Tensors
from service.errors import Unavailable

LENGTH_RATIO = 1.25
"""Sequences share a run if the longest is at most this many times as long as the shortest..."""
LENGTH_SLACK = 16
"""...or longer by at most this many elements."""

SHORT_RUN = 0.001
"""Seconds below which a run stays on the event loop: handing it to a thread and back costs some 0.2 ms."""


@dataclass(frozen=True)
class Limits:
    """What bounds a batcher."""

    run_rows: int = 64
    """Most rows of a run."""
    run_elements: int = 4096
    """Most elements of a run of sequences, padding included; a single row may have more. Larger runs take no less time
    by element, and more memory."""
    queue_rows: int = 1024
    """Most rows that wait."""
    max_wait: float = 0.0
    """Seconds that a run waits for company."""


class Observer(Protocol):
    """Is told what a batcher does."""

    def waits(self, rows: int) -> None:
        """So many rows wait."""

    def ran(self, rows: int, seconds: float) -> None:
        """A run of `rows` took `seconds`."""

    def answered(self, requests: int, seconds: float, waited: float) -> None:
        """So many requests have their outputs, `seconds` after they came, of which they `waited` for a run: totals."""

    def failed(self, seconds: float) -> None:
        """A request has failed in a run, `seconds` after it came."""


@dataclass(eq=False, slots=True)
class Request:
    """Rows that somebody waits for."""

    inputs: Tensors
    rows: int
    answer: "asyncio.Future[Tensors]"
    came: float
    """When, by `time.perf_counter`; likewise when its first run began."""
    began: float = 0.0
    parts: list[tuple[int, Tensors]] = field(default_factory=list)
    """First row and outputs of every slice that is computed."""
    computed: int = 0
    """Rows in `parts`."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows `start` to `stop` of a request: what waits in the queue and goes into one run."""

    request: Request
    start: int
    stop: int
    length: int = 0
    """Of the sequence; 0 where the model takes none."""

    @property
    def rows(self) -> int:
        return self.stop - self.start


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
        self._queue: deque[Slice] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="run")
        self._worker: asyncio.Task[None] | None = None
        self._rows_per_second = 0.0
        """At which the queue drains, what happens between runs included."""
        self._elements_per_second = 0.0
        """Of a run alone."""
        self._last_run_ended = 0.0
        """By `time.perf_counter`; 0 if nothing has waited since."""
        self._filled = asyncio.Event()
        """Set once a run can have all its rows."""
        self._some_left = False
        """Whether rows may be in the queue that nobody waits for."""
        self.waiting = 0
        """Rows in the queue."""

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
        self._queue.extend(self._slices(request))
        self.waiting += rows
        if self.waiting >= self._limits.run_rows:
            self._filled.set()
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        try:
            return await request.answer
        except asyncio.CancelledError:
            self._some_left = True
            raise

    def check_room(self, rows: int = 1) -> None:
        """Lets that many more rows pass if there is room for them; an idle batcher takes any request.

        Raises:
            Unavailable: the queue is full.
        """
        if self.waiting and self.waiting + rows > self._limits.queue_rows:
            self._drop_unwanted()
            if self.waiting and self.waiting + rows > self._limits.queue_rows:
                raise Unavailable("The queue is full.", retry_after=self._seconds_to_drain())

    async def close(self) -> None:
        """Lets the requests in the queue finish and ends the thread."""
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    def _seconds_to_drain(self) -> int:
        """In how many seconds, 1 to 60, the queue is empty at the pace of the last runs."""
        return max(1, min(60, math.ceil(self.waiting / self._rows_per_second))) if self._rows_per_second else 1

    def _slices(self, request: Request) -> list[Slice]:
        """A request as it waits: in one piece, or each sequence for itself."""
        if self._sequence is None:
            return [Slice(request, 0, request.rows)]
        filled = request.inputs[self._sequence] != 0
        lengths = filled.shape[1] - filled[:, ::-1].argmax(1)
        return [Slice(request, row, row + 1, int(length)) for row, length in enumerate(lengths)]

    def _drop_unwanted(self) -> None:
        """Takes out what has failed or is no longer waited for."""
        if self._some_left:
            self._some_left = False
            self._queue = deque(piece for piece in self._queue if not piece.request.answer.done())
            self.waiting = sum(piece.rows for piece in self._queue)

    async def _work(self) -> None:
        """Runs until the queue is empty."""
        try:
            while self._queue:
                if self._limits.max_wait:
                    await self._wait_for_company()
                self._drop_unwanted()
                if self._queue:
                    await self._serve(self._take())
                    await asyncio.sleep(0)  # let those come in who waited for a run on the loop to end
        finally:
            self._worker = None
            self._last_run_ended = 0.0
            if self._observer is not None:
                self._observer.waits(self.waiting)

    async def _wait_for_company(self) -> None:
        """Until a run can have all its rows, at most `max_wait`."""
        if self.waiting < self._limits.run_rows:
            self._filled.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._filled.wait(), self._limits.max_wait)

    def _take(self) -> list[Slice]:
        """Takes the next run's slices out of the queue: the oldest, and those behind it that fit beside it."""
        batch = self._take_alike() if self._sequence is not None else self._take_in_order()
        self.waiting -= sum(piece.rows for piece in batch)
        if self._observer is not None:
            self._observer.waits(self.waiting)
        return batch

    def _take_in_order(self) -> list[Slice]:
        """As many rows as a run may have; the last slice is cut to fit, its rest stays first in the queue."""
        batch: list[Slice] = []
        room = self._limits.run_rows
        while self._queue and room:
            piece = self._queue.popleft()
            if piece.rows > room:
                cut = piece.start + room
                self._queue.appendleft(Slice(piece.request, cut, piece.stop))
                piece = Slice(piece.request, piece.start, cut)
            batch.append(piece)
            room -= piece.rows
        return batch

    def _take_alike(self) -> list[Slice]:
        """The oldest sequence and others of about its length; the rest keeps its order."""
        batch = [self._queue.popleft()]
        shortest = longest = batch[0].length
        rest: deque[Slice] = deque()
        for piece in self._queue:
            low, high = min(shortest, piece.length), max(longest, piece.length)
            rows = len(batch) + 1
            if (
                rows <= self._limits.run_rows
                and rows * high <= self._limits.run_elements
                and high <= max(low * LENGTH_RATIO, low + LENGTH_SLACK)
            ):
                batch.append(piece)
                shortest, longest = low, high
            else:
                rest.append(piece)
        self._queue = rest
        return batch

    async def _serve(self, batch: list[Slice]) -> None:
        """Runs a batch and hands out its rows; if the run fails, each of its requests is tried apart."""
        try:
            outputs = await self._compute(batch)
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
        answered: list[Request] = []
        for piece in batch:
            last = first + piece.rows
            if _deliver(piece, {name: value[first:last] for name, value in outputs.items()}):
                answered.append(piece.request)
            first = last
        self._report(answered)

    async def _compute(self, batch: list[Slice]) -> Tensors:
        """One run, off the event loop unless it is short."""
        rows = sum(piece.rows for piece in batch)
        started = time.perf_counter()
        elements = rows * max(1, max(piece.length for piece in batch))
        if self._elements_per_second and elements / self._elements_per_second < SHORT_RUN:
            outputs = self._run(self._stack(batch))
        else:
            loop = asyncio.get_running_loop()
            outputs = await loop.run_in_executor(self._thread, self._run, self._stack(batch))
        ended = time.perf_counter()
        seconds = max(ended - started, 1e-6)
        if any(len(value) != rows for value in outputs.values()):
            raise ValueError(f"the outputs of {rows} rows have {[len(value) for value in outputs.values()]}")
        for piece in batch:
            piece.request.began = piece.request.began or started
        if self._observer is not None:
            self._observer.ran(rows, seconds)
        drained = ended - self._last_run_ended if self._last_run_ended else seconds
        self._rows_per_second = _follow(self._rows_per_second, rows / max(drained, 1e-6))
        self._last_run_ended = ended if self._queue else 0.0
        self._elements_per_second = _follow(self._elements_per_second, elements / seconds)
        return outputs

    def _report(self, answered: list[Request]) -> None:
        """Tells of the requests that a run has answered."""
        if self._observer is not None and answered:
            came, began = sum(each.came for each in answered), sum(each.began for each in answered)
            self._observer.answered(len(answered), len(answered) * time.perf_counter() - came, began - came)

    def _fail(self, request: Request, error: Exception) -> None:
        if not request.answer.done():
            request.answer.set_exception(error)
            self._some_left = True  # other slices of it
            if self._observer is not None:
                self._observer.failed(time.perf_counter() - request.came)

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


def _deliver(piece: Slice, outputs: Tensors) -> bool:
    """Adds computed rows to their request and answers it once all are there; says whether it did."""
    request = piece.request
    if request.answer.done():
        return False
    if piece.rows == request.rows:
        request.answer.set_result(outputs)
        return True
    request.parts.append((piece.start, outputs))
    request.computed += piece.rows
    if request.computed < request.rows:
        return False
    request.parts.sort(key=lambda part: part[0])
    request.answer.set_result({name: np.concatenate([part[name] for _, part in request.parts]) for name in outputs})
    return True
