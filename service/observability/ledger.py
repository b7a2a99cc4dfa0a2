"""The files by which the workers of a server know each other's numbers, in a folder that they share.

A worker has two: its numbers, which it maps into its memory, so that what a killed one has counted is still there, and
the index of the series that they belong to. The first is locked while it lives. Whoever starts adds what dead ones have
counted to `dead.json` and removes their files. To read takes no lock, so that a worker which has been stopped keeps
nobody waiting: what was read while one was buried is read again.
"""

import fcntl
import os
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import add
from pathlib import Path
from typing import IO
from uuid import uuid4

import msgspec

Labels = tuple[str, ...]
Row = tuple[str, Labels, Sequence[float]]
"""The name of a series, the values of its labels, and its numbers."""

_NUMBERS, _INDEX = ".numbers", ".index"
_DEAD = "dead.json"


@dataclass(frozen=True)
class Worker:
    """A process that lives."""

    name: str
    """A number from 0; that of a dead one goes to the next that starts."""
    pid: int


@dataclass(frozen=True)
class Reading:
    """What all have counted at some moment."""

    rows: list[Row]
    """The series of every worker, and of those that are dead what lasts."""
    workers: list[Worker]
    """Those that live."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """A series of a worker, where its numbers are, and how many of them, from the first, count when it is dead."""

    name: str
    labels: Labels
    place: int
    size: int
    lasting: int

    def row(self, numbers: Sequence[float], *, alive: bool = True) -> Row:
        """What it has of the numbers of its worker."""
        return self.name, self.labels, numbers[self.place : self.place + (self.size if alive else self.lasting)]


class _Head(msgspec.Struct, frozen=True):
    """Whose files these are."""

    name: str
    pid: int


class _Dead(msgspec.Struct, frozen=True):
    """What the dead have counted."""

    last: str = ""
    """Whose files may still be there."""
    rows: list[tuple[str, Labels, list[float]]] = []


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_entry = msgspec.json.Decoder(Entry).decode
_decode_dead = msgspec.json.Decoder(_Dead).decode


@dataclass(frozen=True)
class _Copy:
    """What was in the files of a worker at some moment."""

    identity: str
    alive: bool
    index: list[bytes]
    """Its lines."""
    numbers: "array[float]"

    @property
    def worker(self) -> Worker:
        head = _decode_head(self.index[0])
        return Worker(head.name, head.pid)

    @property
    def rows(self) -> list[Row]:
        entries = map(_decode_entry, self.index[1:])
        return [each.row(self.numbers, alive=self.alive) for each in entries if self.alive or each.lasting]


def join(folder: Path, size: int) -> tuple[IO[bytes], IO[bytes]]:
    """Makes the files of this worker, once it has buried those who are dead.

    Args:
        folder: that the workers share.
        size: bytes of its numbers.

    Returns:
        Its index, to which its entries are to be added, a line each; and its numbers, all of them 0.

    Raises:
        OSError: there is no room.
    """
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("ab") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        with suppress(OSError):  # a disk that is full: they are buried by the next, and read until then
            _bury(folder)
        taken = {copy.worker.name for copy in _copies(folder)}
        name = next(str(number) for number in range(len(taken) + 1) if str(number) not in taken)
        identity, unnamed = uuid4().hex, folder / "new"
        index = (folder / f"{identity}{_INDEX}").open("wb", buffering=0)
        index.write(msgspec.json.encode(_Head(name, os.getpid())) + b"\n")
        numbers = unnamed.open("w+b")
        os.posix_fallocate(numbers.fileno(), 0, size)  # a full disk would kill at a later write
        fcntl.flock(numbers, fcntl.LOCK_EX)
        unnamed.rename(folder / f"{identity}{_NUMBERS}")  # nobody sees it without its lock
    return index, numbers


def enter(index: IO[bytes], entry: Entry) -> bool:
    """Adds an entry to the index of this worker, whole or not at all: whether there was room for it on the disk."""
    line, end = msgspec.json.encode(entry) + b"\n", index.tell()
    with suppress(OSError):
        if index.write(line) == len(line):
            return True
    index.seek(end)
    index.truncate()
    return False


def read(folder: Path) -> Reading:
    """What the workers that share `folder` have counted.

    Raises:
        OSError: it cannot be read.
    """
    before, copies = None, list[_Copy]()
    while before != (encoded := _read_dead(folder)):
        before, copies = encoded, _copies(folder)
    dead = _decode_dead(encoded)
    left = [copy for copy in copies if copy.identity != dead.last]
    workers = sorted((copy.worker for copy in left if copy.alive), key=lambda worker: int(worker.name))
    return Reading([*dead.rows, *(row for copy in left for row in copy.rows)], workers)


def _bury(folder: Path) -> None:
    """Adds what dead workers have counted to what the dead have, and removes their files."""
    dead = _decode_dead(_read_dead(folder))
    _remove(folder, dead.last)  # whoever buried it may have died before
    for copy in _copies(folder):
        if not copy.alive:
            dead = _with(dead, copy)
            unnamed = folder / f"{_DEAD}.new"
            unnamed.write_bytes(msgspec.json.encode(dead))
            unnamed.rename(folder / _DEAD)
            _remove(folder, copy.identity)


def _remove(folder: Path, identity: str) -> None:
    for suffix in (_NUMBERS, _INDEX):
        (folder / f"{identity}{suffix}").unlink(missing_ok=True)


def _with(dead: _Dead, copy: _Copy) -> _Dead:
    """The dead, and one more."""
    counted: dict[tuple[str, Labels], Sequence[float]] = {(name, labels): row for name, labels, row in dead.rows}
    for name, labels, latest in copy.rows:
        before = counted.get((name, labels), [0.0] * len(latest))
        counted[name, labels] = list(map(add, before, latest))
    return _Dead(copy.identity, [(name, labels, list(row)) for (name, labels), row in counted.items()])


def _read_dead(folder: Path) -> bytes:
    """What the dead have counted; nothing if none has been buried yet."""
    with suppress(FileNotFoundError):
        return (folder / _DEAD).read_bytes()
    return b"{}"


def _copies(folder: Path) -> list[_Copy]:
    """The files of the workers that live or are still to be buried."""
    copies = []
    for path in folder.glob(f"*{_NUMBERS}"):
        with suppress(FileNotFoundError):  # buried just now
            copies.append(_copy(path))
    return copies


def _copy(path: Path) -> _Copy:
    """The files of one worker; their numbers are at `path`."""
    with path.open("rb") as file:
        alive = _is_locked(file)
        *index, _unfinished = path.with_suffix(_INDEX).read_bytes().split(b"\n")
        numbers = array("d")
        if len(index) > 1:
            last = _decode_entry(index[-1])
            numbers.frombytes(file.read(8 * (last.place + last.size)))
    return _Copy(path.stem, alive, index, numbers)


def _is_locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
