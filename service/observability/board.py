"""The numbers that this process counts: to count costs an addition. A worker shares them with the others."""

import mmap
import os
from pathlib import Path
from typing import IO

from service.observability import ledger
from service.observability.ledger import Entry, Labels, Reading, Worker

MOST_NUMBERS = 1 << 17
"""That a worker keeps, 8 bytes each: enough for 180 to 350 versions of models, depending on how many batch sizes they
run. What comes after them is not counted.
"""
_SPILL = 256
"""Numbers at the end, for all series for which there is no room."""


class Board:
    """The numbers of this process, known to it alone until it shares them."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._index: IO[bytes] | None = None
        self._entries: list[Entry] = []
        self._used = 0
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
        self._folder = folder
        self._index, self._file = ledger.join(folder, 8 * MOST_NUMBERS)  # which is locked while it is open
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
            The place of the first in `numbers`; in `octets` it is 8 times that. Where there is no room left for them,
            here or on the disk, it is one that counts for nothing.
        """
        entry = Entry(name, labels, self._used, size, lasting)
        end = entry.place + size
        if end > MOST_NUMBERS - _SPILL:
            return MOST_NUMBERS - _SPILL
        for place in range(entry.place, end):
            self.numbers[place] = empty
        if self._index is not None and not ledger.enter(self._index, entry):
            return MOST_NUMBERS - _SPILL
        self._used = end
        self._entries.append(entry)
        return entry.place

    def read(self) -> Reading:
        """What this process, and those with which it shares, have counted.

        Raises:
            OSError: the folder cannot be read.
        """
        if self._folder is None:
            return Reading([entry.row(self.numbers) for entry in self._entries], [Worker("0", os.getpid())])
        return ledger.read(self._folder)


BOARD = Board()
"""Of this process."""
