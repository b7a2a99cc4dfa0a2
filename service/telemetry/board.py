"""Numbers that the workers of one server share, so that any of them can tell what all have counted.

Each worker has a file of its own, mapped into its memory: to count costs an addition, and what a killed worker has
counted is still there. The file is locked while its worker lives. What a dead one has counted is added to what all the
dead have, and its files are removed.
"""

import fcntl
import mmap
import os
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
_SPILL = 256
"""Numbers at the end, for all series for which there is no room."""

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
        with self._alone():
            self._bury()
            taken = set(self._living())
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
            OSError: the folder cannot be read.
        """
        if self._folder is None:
            return [(each.name, each.labels, _of(each, self.numbers)) for each in self._entries]
        with self._alone():
            dead = self._bury()
            living = [row for number in self._living() for row in _rows(*self._read(number)[1:])]
        return [*dead.rows, *living]

    def workers(self) -> list[Worker]:
        """Those that live.

        Raises:
            OSError: the folder cannot be read.
        """
        if self._folder is None:
            return [Worker("0", os.getpid())]
        with self._alone():
            self._bury()
            return [Worker(number, self._read(number)[0].pid) for number in self._living()]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Waits until no other worker reads or buries."""
        assert self._folder is not None
        with (self._folder / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _living(self) -> list[str]:
        """The numbers of the workers, once the dead are buried."""
        assert self._folder is not None
        return sorted((path.stem for path in self._folder.glob("*.numbers")), key=int)

    def _bury(self) -> _Dead:
        """Adds what dead workers have counted to what the dead have, and removes their files."""
        assert self._folder is not None
        path = self._folder / "dead.json"
        dead = msgspec.json.decode(path.read_bytes(), type=_Dead) if path.exists() else _Dead()
        for number in self._living():
            if _is_locked(self._folder / f"{number}.numbers"):
                continue
            head, entries, numbers = self._read(number)
            if head.identity != dead.last:  # else the one who buried it died before its files were gone
                dead = _with(dead, head.identity, entries, numbers)
                unnamed = path.with_suffix(".new")
                unnamed.write_bytes(msgspec.json.encode(dead))
                unnamed.rename(path)
            (self._folder / f"{number}.numbers").unlink()
        return dead

    def _read(self, number: str) -> tuple[_Head, list[_Entry], "array[float]"]:
        """The files of a worker."""
        assert self._folder is not None
        head, *lines, _unfinished = (self._folder / f"{number}.index").read_bytes().split(b"\n")
        entries = [msgspec.json.decode(line, type=_Entry) for line in lines]
        numbers = array("d")
        with (self._folder / f"{number}.numbers").open("rb") as file:
            numbers.frombytes(file.read(8 * sum(each.size for each in entries)))
        return msgspec.json.decode(head, type=_Head), entries, numbers


BOARD = Board()
"""Of this process."""


def _of(entry: _Entry, numbers: Sequence[float]) -> Sequence[float]:
    return numbers[entry.place : entry.place + entry.size]


def _rows(entries: Sequence[_Entry], numbers: Sequence[float]) -> list[Row]:
    return [(each.name, each.labels, _of(each, numbers)) for each in entries]


def _with(dead: _Dead, identity: str, entries: Sequence[_Entry], numbers: Sequence[float]) -> _Dead:
    """The dead, and one more."""
    counted = {(name, labels): before for name, labels, before in dead.rows}
    for entry in entries:
        if entry.lasting and numbers:
            latest = list(_of(entry, numbers))[: entry.lasting]
            before = counted.get((entry.name, entry.labels), [0.0] * entry.lasting)
            counted[entry.name, entry.labels] = list(map(add, before, latest))
    return _Dead(identity, [(name, labels, rows) for (name, labels), rows in counted.items()])


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
