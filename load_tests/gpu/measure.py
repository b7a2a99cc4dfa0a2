"""Times the ways to run a graph, one after another, at several numbers of rows, beside the least that it could take."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from load_tests.gpu.floor import Peaks, work
from load_tests.gpu.models import Model
from load_tests.gpu.ways import Device, Run, Way
from service.tensors import Tensors

WARM = 5
"""Runs before those that count: buffers, plans, recordings, compilations."""
MAX_RUNS = 2000


@dataclass(frozen=True)
class Timing:
    """Runs of so many rows, one after the other, each from arrays of the host to arrays of the host."""

    rows: int
    runs: int
    p50_us: float
    p99_us: float
    per_second: float
    """Rows."""


@dataclass(frozen=True)
class Floor:
    """The least that a run of so many rows takes on the device."""

    rows: int
    us: dict[str, float]
    """By precision."""
    bound_by: dict[str, str]
    """By precision, memory or arithmetic."""


@dataclass
class Standing:
    """How one model did."""

    model: str
    nodes: int
    floors: list[Floor]
    timings: dict[str, list[Timing]] = field(default_factory=dict)
    """By the title of the way."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why a way could not be measured."""


def floors(model: Model, rows: Sequence[int], peaks: Peaks) -> Standing:
    """A standing of nothing yet but what the device allows."""
    works = {count: work(model, model.inputs(count)) for count in rows}
    found = []
    for count, each in works.items():
        bounds = {precision: peaks.floor(each, precision) for precision in peaks.flops_per_second}
        us = {precision: seconds * 1e6 for precision, (seconds, _) in bounds.items()}
        found.append(Floor(count, us, {precision: what for precision, (_, what) in bounds.items()}))
    return Standing(model.name, next(iter(works.values())).nodes, found)


def measure(standing: Standing, model: Model, way: Way, device: Device, rows: Sequence[int], seconds: float) -> str:
    """Times a way and notes it. Returns a line about it."""
    try:
        run = way.open(model, device)
        timings = [_time(run, model.inputs(count), count, seconds) for count in rows]
    except Exception as error:  # each library raises classes of its own
        standing.failures[way.title] = (str(error).strip() or repr(error)).splitlines()[0][:300]
        return f"{model.name}, {way.title}: {standing.failures[way.title]}"
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()
    standing.timings[way.title] = timings
    return f"{model.name}, {way.title}: {', '.join(f'{each.p50_us:.0f} us of {each.rows}' for each in timings)}"


def _time(run: Run, inputs: Tensors, rows: int, seconds: float) -> Timing:
    for _ in range(WARM):
        run(inputs)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < MAX_RUNS and (not taken or time.perf_counter() < end):
        started = time.perf_counter()
        run(inputs)
        taken.append(time.perf_counter() - started)
    p50, p99 = np.quantile(taken, (0.5, 0.99)) * 1e6
    return Timing(rows, len(taken), float(p50), float(p99), rows * len(taken) / sum(taken))
