"""What all workers have counted, collected for those who watch them.

That takes milliseconds: in a thread of its own nobody else waits for it, neither requests nor loads.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from service import machine
from service.telemetry import gpus, metrics, series
from service.telemetry.board import BOARD
from service.telemetry.ledger import Row

T = TypeVar("T")

Totals = dict[tuple[str, str], float]
"""Of a version: by name of the sample and, where it has one, outcome, as in `("deepserve_run_rows_sum", "")`."""

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


def totals() -> dict[tuple[str, str], Totals]:
    """The counters and histograms of every version over all workers, by model and version.

    Raises:
        OSError: what the workers share cannot be read.
    """
    found: defaultdict[tuple[str, str], Totals] = defaultdict(lambda: defaultdict(float))
    for family in series.WorkersCollector(BOARD.read().rows).collect():
        for sample in family.samples:
            if family.type != "gauge" and "version" in sample.labels:
                of_version = found[sample.labels["model"], sample.labels["version"]]
                of_version[sample.name, sample.labels.get("outcome", "")] += sample.value
    return found
