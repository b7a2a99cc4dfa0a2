"""What all workers have counted, collected for those who watch them.

That takes milliseconds: in a thread of its own nobody else waits for it, neither requests nor loads.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from service import machine
from service.observability import gpus, metrics, series
from service.observability.batches import BatchSize
from service.observability.board import BOARD
from service.observability.ledger import Row

T = TypeVar("T")

Samples = Mapping[tuple[str, str], float]
"""Counters and histograms by name of the sample and, where it has one, outcome: `("deepserve_run_rows_sum", "")`."""


@dataclass(frozen=True)
class Totals:
    """What a version has done in all workers."""

    samples: Samples = field(default_factory=dict)
    batches: Mapping[int, BatchSize] = field(default_factory=dict)
    """By batch size, in ascending order."""


_THREAD = ThreadPoolExecutor(1, thread_name_prefix="collect")


async def collect(work: Callable[[], T]) -> T:
    """What `work` returns, one after the other."""
    return await asyncio.get_running_loop().run_in_executor(_THREAD, work)


def exposition(media_type: str) -> tuple[bytes, str]:
    """Return all series of all workers, and the memory and CPU time of each; see `series.exposition`.

    Raises:
        OSError: what the workers share cannot be read.
    """
    reading = BOARD.read()
    taken: list[Row] = list(gpus.rows(reading.workers))
    for worker in reading.workers:
        with suppress(OSError):  # it has just ended
            usage = machine.usage(worker.pid)
            taken.append((metrics.MEMORY.name, (worker.name,), [usage.resident]))
            taken.append((metrics.CPU.name, (worker.name,), [usage.cpu_seconds]))
    return series.exposition([*reading.rows, *taken], media_type)


def totals() -> dict[tuple[str, ...], Totals]:
    """Return what every version has done in all workers, by model and version.

    Raises:
        OSError: what the workers share cannot be read.
    """
    rows = BOARD.read().rows
    batches = metrics.RUN_STAGES.sizes(rows)
    samples: defaultdict[tuple[str, str], dict[tuple[str, str], float]] = defaultdict(lambda: defaultdict(float))
    for family in series.WorkersCollector(rows).collect():
        for sample in family.samples:
            if family.type != "gauge" and "version" in sample.labels:
                of_version = samples[sample.labels["model"], sample.labels["version"]]
                of_version[sample.name, sample.labels.get("outcome", "")] += sample.value
    return {labels: Totals(found, batches.get(labels, {})) for labels, found in samples.items()}
