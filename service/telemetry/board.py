"""Numbers that the workers of one server share, so that any of them can tell what all have counted.

Each worker has a file of its own, mapped into its memory: to count costs an addition, and what a killed worker has
counted is still there. The file is locked while its worker lives. What a dead one has counted is added to what all the
dead have, and its files are removed.
"""

import fcntl
import math
import mmap
import os
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import add
from pathlib import Path
from typing import IO
from uuid import uuid4

import msgspec

MOST_NUMBERS = 1 << 17
"""That a worker keeps, 8 bytes each: enough for some 500 versions of models. What comes after them is not counted."""
_DEAD = "dead.json"
"""The file of what the dead have counted."""
_SPILL = 256
"""Numbers at the end, for all series for which there is no room."""

PATIENCE = 1.0
"""Seconds that who wants to know the numbers waits for another who reads or buries, who may have been stopped."""
_LOOK = 0.002
"""Seconds between looks whether it is free."""

Labels = tuple[str, ...]
Row = tuple[str, Labels, Sequence[float]]
"""The name of a series, the values of its labels, and its numbers."""


@dataclass(frozen=True)
class Worker:
    """A process that lives."""

    number: str
    """From 0; that of a dead one goes to the next that starts."""
    pid: int


class _Head(msgspec.Struct, frozen=True):
    """Whose files these are."""

    identity: str
    pid: int


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    """A series of a worker, where its numbers are, and how many of them count when it is dead."""

    name: str
    labels: Labels
    place: int
    size: int
    lasting: int


class _Copy(msgspec.Struct, frozen=True):
    """What was in the files of a worker at some moment."""

    number: str
    index: list[bytes]
    """Its lines."""
    numbers: "array[float]"

    @property
    def head(self) -> _Head:
        return msgspec.json.decode(self.index[0], type=_Head)

    @property
    def entries(self) -> list[_Entry]:
        return [_ENTRY.decode(line) for line in self.index[1:]]


_ENTRY = msgspec.json.Decoder(_Entry)


class _Dead(msgspec.Struct, frozen=True):
    """What the dead have counted."""

    last: str = ""
    """The identity of the last one, whatever is left of its files."""
    rows: list[tuple[str, Labels, list[float]]] = []


class Board:
    """The numbers of this worker, known to it alone until it shares them."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._entries: list[_Entry] = []
        self._used = 0
        self._index: IO[bytes] | None = None
        self._map(mmap.mmap(-1, 8 * MOST_NUMBERS))

    def _map(self, memory: mmap.mmap) -> None:
        self.octets = memoryview(memory)
        self.numbers = self.octets.cast("d")

    def share(self, folder: Path) -> None:
        """Lets the workers that share `folder` know the numbers; to be called before any is taken.

        Raises:
            OSError: there is no room.
        """
        if self._entries:
            raise RuntimeError("series were made before they could be shared")
        folder.mkdir(exist_ok=True)
        self._folder = folder
        with self._alone(math.inf):
            self._bury()
            taken = set(self._unburied())
            number = next(str(n) for n in range(len(taken) + 1) if str(n) not in taken)
            self._index = (folder / f"{number}.index").open("wb", buffering=0)
            self._index.write(msgspec.json.encode(_Head(uuid4().hex, os.getpid())) + b"\n")
            self._file = (folder / f"{number}.numbers").open("w+b")
            fcntl.flock(self._file, fcntl.LOCK_EX)
            os.posix_fallocate(self._file.fileno(), 0, 8 * MOST_NUMBERS)  # a full disk would kill at a later write
            self._map(mmap.mmap(self._file.fileno(), 8 * MOST_NUMBERS))

    def take(self, name: str, labels: Labels, size: int, lasting: int, empty: float = 0.0) -> int:
        """Takes `size` numbers for a series, which are `empty`.

        Args:
            name: of the series.
            labels: the values of its labels.
            size: how many.
            lasting: how many of them, from the first, are added to those of others when the worker is dead.
            empty: what they are at first.

        Returns:
            The place of the first in `numbers`; in `octets` it is 8 times that.
        """
        if self._used + size > MOST_NUMBERS - _SPILL:
            return MOST_NUMBERS - _SPILL
        entry = _Entry(name, labels, self._used, size, lasting)
        self._used += size
        for place in range(entry.place, self._used):
            self.numbers[place] = empty
        self._entries.append(entry)
        if self._index is not None:
            self._index.write(msgspec.json.encode(entry) + b"\n")
        return entry.place

    def rows(self) -> list[Row]:
        """The series of all workers, and of those that are dead what lasts.

        Raises:
            TimeoutError: another worker does not let go of the folder.
            OSError: the folder cannot be read.
        """
        if self._folder is None:
            return _rows(self._entries, self.numbers)
        dead, living = self._copies()
        return [*_decoded(dead).rows, *(row for worker in living for row in _rows(worker.entries, worker.numbers))]

    def workers(self) -> list[Worker]:
        """Those that live.

        Raises:
            TimeoutError: another worker does not let go of the folder.
            OSError: the folder cannot be read.
        """
        if self._folder is None:
            return [Worker("0", os.getpid())]
        return [Worker(worker.number, worker.head.pid) for worker in self._copies()[1]]

    def _copies(self) -> tuple[bytes, list[_Copy]]:
        """What the dead have counted and the files of the living, at one moment: read while no other does, decoded
        afterwards.
        """
        with self._alone(PATIENCE):
            self._bury()
            return self._read_dead(), [self._read(number) for number in self._unburied()]

    @contextmanager
    def _alone(self, patience: float) -> Iterator[None]:
        """Waits until no other worker reads or buries, `patience` seconds at most."""
        assert self._folder is not None
        end = time.monotonic() + patience
        with (self._folder / "lock").open("ab") as file:
            while not _lock(file):
                if time.monotonic() >= end:
                    raise TimeoutError(f"another worker has held {file.name} for {patience} s")
                time.sleep(_LOOK)
            yield

    def _unburied(self) -> list[str]:
        """The numbers of the workers that live or are still to be buried."""
        assert self._folder is not None
        return sorted((path.stem for path in self._folder.glob("*.numbers")), key=int)

    def _bury(self) -> None:
        """Adds what dead workers have counted to what the dead have, and removes their files."""
        assert self._folder is not None
        path = self._folder / _DEAD
        for number in self._unburied():
            if _is_locked(self._folder / f"{number}.numbers"):
                continue
            dead, worker = _decoded(self._read_dead()), self._read(number)
            if worker.head.identity != dead.last:  # else the one who buried it died before its files were gone
                unnamed = path.with_suffix(".new")
                unnamed.write_bytes(msgspec.json.encode(_with(dead, worker)))
                unnamed.rename(path)
            (self._folder / f"{number}.numbers").unlink()

    def _read_dead(self) -> bytes:
        """What the dead have counted; nothing if none has died yet."""
        assert self._folder is not None
        path = self._folder / _DEAD
        return path.read_bytes() if path.exists() else b"{}"

    def _read(self, number: str) -> _Copy:
        """The files of a worker."""
        assert self._folder is not None
        *index, _unfinished = (self._folder / f"{number}.index").read_bytes().split(b"\n")
        numbers = array("d")
        if len(index) > 1:
            last = _ENTRY.decode(index[-1])
            with (self._folder / f"{number}.numbers").open("rb") as file:
                numbers.frombytes(file.read(8 * (last.place + last.size)))
        return _Copy(number, index, numbers)


BOARD = Board()
"""Of this process."""


def _of(entry: _Entry, numbers: Sequence[float]) -> Sequence[float]:
    return numbers[entry.place : entry.place + entry.size]


def _rows(entries: Sequence[_Entry], numbers: Sequence[float]) -> list[Row]:
    return [(each.name, each.labels, _of(each, numbers)) for each in entries]


def _decoded(dead: bytes) -> _Dead:
    return msgspec.json.decode(dead, type=_Dead)


def _with(dead: _Dead, worker: _Copy) -> _Dead:
    """The dead, and one more."""
    counted = {(name, labels): before for name, labels, before in dead.rows}
    for entry in worker.entries:
        if entry.lasting and worker.numbers:
            latest = list(_of(entry, worker.numbers))[: entry.lasting]
            before = counted.get((entry.name, entry.labels), [0.0] * entry.lasting)
            counted[entry.name, entry.labels] = list(map(add, before, latest))
    return _Dead(worker.head.identity, [(name, labels, rows) for (name, labels), rows in counted.items()])


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        return not _lock(file)


def _lock(file: IO[bytes]) -> bool:
    """Locks a file until it is closed, if nobody else has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
