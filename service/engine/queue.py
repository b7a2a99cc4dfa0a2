"""What waits for a run: requests in slices, in the order in which they came, bounded in rows.

A run takes the oldest slice and those behind it that fit beside it. Sequences run with others of about their length, so
that a long one does not pad many short ones. What nobody waits for any more leaves before it costs a run.
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from service.errors import Unavailable
from service.tensors import Tensors

LENGTH_RATIO = 1.25
"""Sequences share a run if the longest is at most this many times as long as the shortest..."""
LENGTH_SLACK = 16
"""...or longer by at most this many elements."""
RUN_ELEMENTS = 4096
"""Most elements of a run of sequences, padding included; a single row may have more. Larger runs take no less time by
element, and more memory."""


@dataclass(frozen=True)
class Limits:
    """What bounds a queue and the runs that empty it."""

    run_rows: int = 64
    """Most rows of a run."""
    queue_rows: int = 1024
    """Most rows that wait."""
    max_wait: float = 0.0
    """Seconds that a run waits for company."""


@dataclass(eq=False, slots=True)
class Request:
    """Rows that somebody waits for."""

    inputs: Tensors
    rows: int
    answer: "asyncio.Future[Tensors]"
    queued_at: float
    """When it came, by `time.perf_counter`; likewise when its first run began, and when its last ended."""
    started_at: float = 0.0
    ended_at: float = 0.0
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

    def deliver(self, outputs: Tensors) -> bool:
        """Adds the outputs of its rows to the request and answers it once all are there; says whether it did."""
        request = self.request
        if request.answer.done():
            return False
        if self.rows == request.rows:
            request.answer.set_result(outputs)
            return True
        request.parts.append((self.start, outputs))
        request.computed += self.rows
        if request.computed < request.rows:
            return False
        request.parts.sort(key=lambda part: part[0])
        request.answer.set_result({name: np.concatenate([part[name] for _, part in request.parts]) for name in outputs})
        return True


class Queue:
    """The slices that wait for one session. Belongs to one event loop."""

    def __init__(self, limits: Limits, sequence: str | None) -> None:
        """An empty queue.

        Args:
            limits: of the queue, and of the runs that are taken from it.
            sequence: the input whose second dimension is its length; None if there is none.
        """
        self._limits = limits
        self._sequence = sequence
        self._slices: deque[Slice] = deque()
        self._some_left = False
        self.rows = 0
        """That wait."""
        self.rows_per_second = 0.0
        """At which it drains; 0 while nobody knows."""

    def check_room(self, rows: int) -> None:
        """Lets that many more rows pass if there is room for them; an empty queue takes any request.

        Raises:
            Unavailable: the queue is full.
        """
        if self.rows and self.rows + rows > self._limits.queue_rows:
            self.drop_unwanted()
            if self.rows and self.rows + rows > self._limits.queue_rows:
                raise Unavailable("The queue is full.", retry_after_seconds=self._seconds_to_drain())

    def add(self, request: Request) -> None:
        """Puts a request last: in one piece, or each of its sequences for itself."""
        self.rows += request.rows
        if self._sequence is None:
            self._slices.append(Slice(request, 0, request.rows))
            return
        filled = request.inputs[self._sequence] != 0
        lengths = filled.shape[1] - filled[:, ::-1].argmax(1)
        self._slices.extend(Slice(request, row, row + 1, int(length)) for row, length in enumerate(lengths))

    def some_left(self) -> None:
        """The answer of a request is done: it failed, or nobody waits for it any more. Its rows may still be here."""
        self._some_left = True

    def drop_unwanted(self) -> None:
        """Takes out what nobody waits for."""
        if self._some_left:
            self._some_left = False
            self._slices = deque(piece for piece in self._slices if not piece.request.answer.done())
            self.rows = sum(piece.rows for piece in self._slices)

    def take(self) -> list[Slice]:
        """Takes out the slices of the next run: the oldest, and those behind it that fit beside it."""
        batch = self._take_alike() if self._sequence is not None else self._take_in_order()
        self.rows -= sum(piece.rows for piece in batch)
        return batch

    def _take_in_order(self) -> list[Slice]:
        """As many rows as a run may have; the last slice is cut to fit, its rest stays first in the queue."""
        batch: list[Slice] = []
        room = self._limits.run_rows
        while self._slices and room:
            piece = self._slices.popleft()
            if piece.rows > room:
                cut = piece.start + room
                self._slices.appendleft(Slice(piece.request, cut, piece.stop))
                piece = Slice(piece.request, piece.start, cut)
            batch.append(piece)
            room -= piece.rows
        return batch

    def _take_alike(self) -> list[Slice]:
        """The oldest sequence and others of about its length; the rest keeps its order."""
        batch = [self._slices.popleft()]
        shortest = longest = batch[0].length
        rest: deque[Slice] = deque()
        for piece in self._slices:
            low, high = min(shortest, piece.length), max(longest, piece.length)
            rows = len(batch) + 1
            if (
                rows <= self._limits.run_rows
                and rows * high <= RUN_ELEMENTS
                and high <= max(low * LENGTH_RATIO, low + LENGTH_SLACK)
            ):
                batch.append(piece)
                shortest, longest = low, high
            else:
                rest.append(piece)
        self._slices = rest
        return batch

    def _seconds_to_drain(self) -> int:
        """In how many seconds, 1 to 60, it is empty."""
        return max(1, min(60, math.ceil(self.rows / self.rows_per_second))) if self.rows_per_second else 1
