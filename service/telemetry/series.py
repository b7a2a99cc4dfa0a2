"""Counters, gauges and histograms on the board that all workers share, and how Prometheus reads them.

The client library of Prometheus takes 3 us to observe a number for several workers, and keeps no exemplars of them;
here it takes 0.3 us. Labels are looked up once: `labels` gives what counts, to be kept.
"""

import math
import struct
import time
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from operator import add
from threading import Lock
from typing import Literal

from service.telemetry.board import BOARD, Labels, Row

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_EXEMPLAR = struct.Struct("16sdd")
"""Trace id, value, seconds since 1970."""
_TAKING = Lock()


@dataclass(frozen=True, slots=True)
class Exemplar:
    """An observation whose trace can be looked up."""

    trace_id: str
    value: float
    when: float
    """Seconds since 1970."""


@dataclass(slots=True)
class Point:
    """What a series has come to."""

    numbers: Sequence[float]
    """The value, or for a histogram the observations in each bucket and, last, their sum."""
    exemplars: Sequence[Exemplar | None] = field(default_factory=list)
    """One a bucket, where there are any."""


class Family(ABC):
    """The series of one name, each with other values of its labels."""

    kind: Literal["counter", "gauge", "histogram"]

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self.name, self.text, self.label_names = name, text, labels
        self._places: dict[Labels, int] = {}
        FAMILIES[name] = self

    @abstractmethod
    def point(self, workers: Sequence[Sequence[float]]) -> Point:
        """What the numbers of several workers come to."""

    def samples(self, point: Point) -> Iterator[tuple[str, str, float, Exemplar | None]]:
        """The lines of a series: suffix of the name, further label, value, and its exemplar if it has one."""
        yield ("_total" if self.kind == "counter" else ""), "", point.numbers[0], None

    def _place(self, labels: Labels, size: int, lasting: int, empty: float = 0.0) -> int:
        if len(labels) != len(self.label_names):
            raise ValueError(f"{self.name} has the labels {self.label_names}, and not {labels}")
        with _TAKING:
            if labels not in self._places:
                self._places[labels] = BOARD.take(self.name, labels, size, lasting, empty)
            return self._places[labels]


FAMILIES: dict[str, Family] = {}
"""All that there are, by name."""


class Counter(Family):
    """What only rises."""

    kind = "counter"

    def labels(self, *labels: str) -> "Number":
        return Number(self._place(labels, 1, 1))

    def point(self, workers: Sequence[Sequence[float]]) -> Point:
        return Point([math.fsum(numbers[0] for numbers in workers)])


class Gauge(Family):
    """What rises and falls; of several workers the sum, or the least. There is none until it is set."""

    kind = "gauge"

    def __init__(self, name: str, text: str, labels: Labels = (), *, least: bool = False) -> None:
        super().__init__(name, text, labels)
        self._least = least

    def labels(self, *labels: str) -> "Number":
        return Number(self._place(labels, 1, 0, math.nan))

    def point(self, workers: Sequence[Sequence[float]]) -> Point:
        there = [numbers[0] for numbers in workers if not math.isnan(numbers[0])]
        if not there:
            return Point([math.nan])
        return Point([min(there) if self._least else math.fsum(there)])


class Histogram(Family):
    """How often what was observed was at most so much."""

    kind = "histogram"

    def __init__(
        self, name: str, text: str, labels: Labels, buckets: Sequence[float], *, exemplars: bool = False
    ) -> None:
        super().__init__(name, text, labels)
        self.buckets = tuple(map(float, buckets))
        self._names = [*map(repr, self.buckets), "+Inf"]
        self._lasting = len(buckets) + 2
        self._size = self._lasting + exemplars * (len(buckets) + 1) * _EXEMPLAR.size // 8

    def labels(self, *labels: str) -> "Observations":
        return Observations(self._place(labels, self._size, self._lasting), self.buckets)

    def point(self, workers: Sequence[Sequence[float]]) -> Point:
        counts = list(workers[0][: self._lasting])
        for numbers in workers[1:]:
            counts = list(map(add, counts, numbers[: self._lasting]))
        exemplars = [_exemplars(numbers[self._lasting :]) for numbers in workers if len(numbers) > self._lasting]
        return Point(counts, [_latest(each) for each in zip(*exemplars, strict=True)])

    def samples(self, point: Point) -> Iterator[tuple[str, str, float, Exemplar | None]]:
        *counts, total = point.numbers
        exemplars = point.exemplars or [None] * len(counts)
        for name, below, exemplar in zip(self._names, accumulate(counts), exemplars, strict=True):
            yield "_bucket", f'le="{name}"', below, exemplar
        yield "_sum", "", total, None
        yield "_count", "", sum(counts), None


class Number:
    """One counter or gauge of this worker; at any time one thread changes it."""

    __slots__ = ("_numbers", "_place")

    def __init__(self, place: int) -> None:
        self._numbers, self._place = BOARD.numbers, place

    def inc(self, by: float = 1.0) -> None:
        """Adds to it."""
        self._numbers[self._place] += by

    def set(self, value: float) -> None:
        """Gives it a value."""
        self._numbers[self._place] = value

    def clear(self) -> None:
        """Takes a gauge away."""
        self._numbers[self._place] = math.nan


class Observations:
    """One histogram of this worker; at any time one thread changes it."""

    __slots__ = ("_buckets", "_numbers", "_place", "_sum")

    def __init__(self, place: int, buckets: tuple[float, ...]) -> None:
        self._numbers, self._place, self._buckets = BOARD.numbers, place, buckets
        self._sum = place + len(buckets) + 1

    def observe(self, value: float) -> None:
        """Adds an observation."""
        self._numbers[self._place + bisect_left(self._buckets, value)] += 1.0
        self._numbers[self._sum] += value

    def exemplify(self, value: float, trace_id: bytes) -> None:
        """Keeps an observation as the example of its bucket; the id of its trace has 16 bytes."""
        first = 8 * (self._sum + 1) + _EXEMPLAR.size * bisect_left(self._buckets, value)
        BOARD.octets[first : first + _EXEMPLAR.size] = _EXEMPLAR.pack(trace_id, value, time.time())


def _exemplars(numbers: Sequence[float]) -> list[Exemplar | None]:
    found = _EXEMPLAR.iter_unpack(array("d", numbers).tobytes())
    return [Exemplar(trace.hex(), value, when) if when else None for trace, value, when in found]


def _latest(exemplars: Sequence[Exemplar | None]) -> Exemplar | None:
    return max((each for each in exemplars if each is not None), key=lambda each: each.when, default=None)


def collect(further: Sequence[Row] = ()) -> dict[str, dict[Labels, Point]]:
    """What all workers have come to, and `further` series that nobody keeps, by name and labels.

    Raises:
        OSError: what they share cannot be read.
    """
    found: dict[str, dict[Labels, list[Sequence[float]]]] = {name: {} for name in FAMILIES}
    for name, labels, numbers in (*BOARD.rows(), *further):
        found[name].setdefault(labels, []).append(numbers)
    return {
        name: {labels: FAMILIES[name].point(workers) for labels, workers in sorted(series.items())}
        for name, series in found.items()
    }


def exposition(further: Sequence[Row] = (), *, openmetrics: bool) -> bytes:
    """All series of all workers, and `further` ones, as `TEXT` or as `OPENMETRICS`, which has exemplars too.

    Lets other threads work while it does.

    Raises:
        OSError: what the workers share cannot be read.
    """
    lines: list[str] = []
    for name, series in collect(further).items():
        if series:
            lines += _lines(FAMILIES[name], series, openmetrics=openmetrics)
        time.sleep(0)
    return "".join([*lines, *(["# EOF\n"] if openmetrics else [])]).encode()


def _lines(family: Family, series: dict[Labels, Point], *, openmetrics: bool) -> Iterator[str]:
    name = family.name + ("_total" if family.kind == "counter" and not openmetrics else "")
    yield f"# HELP {name} {family.text}\n# TYPE {name} {family.kind}\n"
    for values, point in series.items():
        pairs = sorted(zip(family.label_names, values, strict=True))
        labels = [f'{each}="{_escaped(value)}"' for each, value in pairs]
        for suffix, further, value, exemplar in family.samples(point):
            if math.isnan(value):
                continue
            inner = ",".join([*labels, further] if further else labels)
            example = ""
            if exemplar is not None and openmetrics:
                example = f' # {{trace_id="{exemplar.trace_id}"}} {exemplar.value!r} {exemplar.when:.3f}'
            yield f"{family.name}{suffix}{'{' + inner + '}' if inner else ''} {value!r}{example}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
