"""The metrics of several workers: each writes them to files in a shared folder, which every worker can read.

This is the multiprocess mode of prometheus_client, with one change. The library names a worker's files after its
process id, so that files pile up as workers are restarted. Here a worker has a slot: the lowest number that no living
worker holds. A new worker takes over the files of the dead worker whose slot it gets, so that counters and histograms
go on from there. A slot is held by a lock on a file, which the kernel releases however the worker ends.
"""

import fcntl
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO

from prometheus_client import values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable in which prometheus_client looks for the folder."""

_SLOT = ".slot"
"""Suffix of the file that is locked while a worker holds the slot; it contains the worker's process id."""

FILE_BYTES = {"histogram": 2**20, "counter": 2**19, "gauge_liveall": 2**19}
"""Bytes that are reserved for each kind of series of a worker: enough for about 100 versions of models."""


@dataclass(frozen=True)
class Worker:
    """A living worker."""

    name: str
    """Its slot, from 0."""
    pid: int


class SharedFolder:
    """The folder with the metrics of all workers of a server."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock: IO[str] | None = None

    def join(self) -> None:
        """Have prometheus_client write the series of this process into the folder. Call it before any series is made.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        self._path.mkdir(exist_ok=True)
        slot, self._lock = next(filter(None, map(self._take, count())))
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        mark_process_dead(slot, str(self._path))  # type: ignore[no-untyped-call]  # the gauges of the last holder
        for kind, size in FILE_BYTES.items():
            _reserve(self._path / f"{kind}_{slot}.db", size)
        os.environ[_VARIABLE] = str(self._path)
        values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]

    def workers(self) -> list[Worker]:
        """Return the living workers, by slot.

        Raises:
            OSError: the folder cannot be read.
        """
        found = []
        for path in self._path.glob(f"*{_SLOT}"):
            with path.open() as file, suppress(ValueError):  # it has not written its process id yet
                if _is_locked(file):
                    found.append(Worker(path.stem, int(file.read())))
        return sorted(found, key=lambda worker: int(worker.name))

    def collector(self) -> MultiProcessCollector:
        """Return a collector of the series of all workers, living and dead; gauges have the slot as the label `pid`."""
        return MultiProcessCollector(None, str(self._path))  # type: ignore[no-untyped-call]

    def _take(self, slot: int) -> tuple[int, IO[str]] | None:
        """Return a slot and its locked file; None if another worker holds it."""
        file = (self._path / f"{slot}{_SLOT}").open("a+")
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return slot, file
            if _is_locked(file):
                file.close()
                return None
            time.sleep(0.001)  # a reader looks at it just now


def _reserve(path: Path, size: int) -> None:
    """Make a file of zeros, unless there is one: prometheus_client takes an empty series file of any size.

    The disk space is allocated, since a write to a mapped file kills the process if the disk is full.
    """
    if not path.exists():
        unfinished = path.with_suffix(".new")  # which readers do not look for
        with unfinished.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        unfinished.rename(path)


def _is_locked(file: IO[str]) -> bool:
    """Return whether a worker holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
