"""The queue of one session: requests in slices, in order of arrival, bounded in rows.

A run takes the oldest slice and the slices behind it that fit. Sequences are grouped by length, so that one long
sequence does not pad many short ones. Slices of cancelled and failed requests are dropped before a run takes them.
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field, fields
from typing import Self

import numpy as np

from service.errors import Unavailable
from service.settings import Settings
from service.tensors import Array, Tensors

LENGTH_RATIO = 1.25
"""Sequences share a run if the longest is at most this many times as long as the shortest, ..."""
LENGTH_SLACK = 16
"""... or at most this many elements longer."""
RUN_ELEMENTS = 4096
"""Most elements of a run of sequences, including padding; a single row may have more. Beyond it, a run takes no less
time per element, and more memory."""


@dataclass(frozen=True)
class Limits:
    """Bounds of a queue and its runs. `Settings` describes the fields, which have the same names and units there."""

    max_batch_rows: int = 64
    max_queue_rows: int = 1024
    max_wait_seconds: float = 0.0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the part of the settings that concerns queues."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


@dataclass(slots=True)
class RunTimings:
    """Times of one request in the batcher, in `time.perf_counter` seconds."""

    queued_at: float
    """Arrival in the queue."""
    started_at: float = 0.0
    """Start of its first run."""
    ended_at: float = 0.0
    """End of its last run."""


@dataclass(eq=False, slots=True)
class Entry:
    """A request in the queue."""

    inputs: Tensors
    rows: int
    result: "asyncio.Future[Tensors]"
    timings: RunTimings
    parts: list[tuple[int, Tensors]] = field(default_factory=list)
    """First row and outputs of each computed slice."""
    computed: int = 0
    """Rows in `parts`."""


@dataclass(eq=False, slots=True)
class Slice:
    """Consecutive rows of a request: the unit that waits in the queue and goes into one run."""

    entry: Entry
    start: int
    """First row."""
    rows: int
    """Number of rows."""
    length: int = 0
    """Length of the sequence without padding; 0 for models without sequences."""

    def inputs(self, name: str) -> Array:
        """Return these rows of an input."""
        return self.entry.inputs[name][self.start : self.start + self.rows]

    def deliver(self, outputs: Tensors) -> bool:
        """Add the outputs of these rows to the request. Return whether this completes the request."""
        entry = self.entry
        if entry.result.done():
            return False
        if self.rows == entry.rows:
            entry.result.set_result(outputs)
            return True
        entry.parts.append((self.start, outputs))
        entry.computed += self.rows
        if entry.computed < entry.rows:
            return False
        entry.parts.sort(key=lambda part: part[0])
        entry.result.set_result({name: np.concatenate([part[name] for _, part in entry.parts]) for name in outputs})
        return True


class Queue:
    """The slices that wait for one session. Belongs to one event loop."""

    def __init__(self, limits: Limits, sequence: str | None) -> None:
        """Create an empty queue.

        Args:
            limits: of the queue and of the runs taken from it.
            sequence: the input whose second dimension is a sequence length; None if there is none.
        """
        self._limits = limits
        self._sequence = sequence
        self._slices: deque[Slice] = deque()
        self._has_done_slices = False
        """Whether there may be slices of requests that are done."""
        self.rows = 0
        """Rows that wait."""
        self.rows_per_second = 0.0
        """Recent throughput; 0 before the first run."""

    def check_room(self, rows: int) -> None:
        """Check that `rows` more rows fit. An empty queue accepts a request of any size.

        Raises:
            Unavailable: the queue is full.
        """
        if self.rows and self.rows + rows > self._limits.max_queue_rows:
            self.drop_done()
            if self.rows and self.rows + rows > self._limits.max_queue_rows:
                raise Unavailable("The queue is full.", retry_after_seconds=self._seconds_to_drain())

    def add(self, entry: Entry) -> None:
        """Append a request: in one slice, or one slice for each of its sequences."""
        self.rows += entry.rows
        if self._sequence is None:
            self._slices.append(Slice(entry, 0, entry.rows))
            return
        filled = entry.inputs[self._sequence] != 0
        lengths = filled.shape[1] - filled[:, ::-1].argmax(1)
        self._slices.extend(Slice(entry, row, 1, int(length)) for row, length in enumerate(lengths))

    def mark_done(self) -> None:
        """Record that a request failed or was cancelled, so slices of it may still be in the queue."""
        self._has_done_slices = True

    def drop_done(self) -> None:
        """Remove the slices of requests that failed or were cancelled."""
        if self._has_done_slices:
            self._has_done_slices = False
            self._slices = deque(piece for piece in self._slices if not piece.entry.result.done())
            self.rows = sum(piece.rows for piece in self._slices)

    def take(self) -> list[Slice]:
        """Remove and return the slices of the next run: the oldest one and those behind it that fit."""
        return self._take_in_order() if self._sequence is None else self._take_similar()

    def _take_in_order(self) -> list[Slice]:
        """Take as many rows as a run may have. If the last slice is too large, its rest stays first in the queue."""
        batch: list[Slice] = []
        room = self._limits.max_batch_rows
        while self._slices and room:
            piece = self._slices.popleft()
            if piece.rows > room:
                self._slices.appendleft(Slice(piece.entry, piece.start + room, piece.rows - room))
                piece = Slice(piece.entry, piece.start, room)
            batch.append(piece)
            room -= piece.rows
        self.rows -= self._limits.max_batch_rows - room
        return batch

    def _take_similar(self) -> list[Slice]:
        """Take the oldest sequence and others of similar length. The rest keeps its order."""
        batch = [self._slices.popleft()]
        shortest = longest = batch[0].length
        rest: deque[Slice] = deque()
        for piece in self._slices:
            low, high = min(shortest, piece.length), max(longest, piece.length)
            rows = len(batch) + 1
            if (
                rows <= self._limits.max_batch_rows
                and rows * high <= RUN_ELEMENTS
                and high <= max(low * LENGTH_RATIO, low + LENGTH_SLACK)
            ):
                batch.append(piece)
                shortest, longest = low, high
            else:
                rest.append(piece)
        self._slices = rest
        self.rows -= len(batch)
        return batch

    def _seconds_to_drain(self) -> int:
        """Return after how many seconds, 1 to 60, the queue is expected to be empty."""
        return max(1, min(60, math.ceil(self.rows / self.rows_per_second))) if self.rows_per_second else 1
