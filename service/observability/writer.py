"""Writes the lines of the log in a thread of its own, so that nobody waits for whoever reads them.

What a reader has not taken when `MOST_LINES` wait, because it is slow or has stopped, is dropped and counted; the next
line that finds room comes behind one that says how many are missing.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable
from select import PIPE_BUF
from threading import Event, Thread

MOST_LINES = 4096
"""That wait to be written: about a second of a busy worker that logs every request."""
GATHER = 0.01
"""Seconds that lines gather before they are written together: to wake the thread for each would cost more."""
PATIENCE = 1.0
"""Seconds that `flush` waits at most."""


class Writer(logging.Handler):
    """Writes to a file that may be full, or to a pipe that nobody reads."""

    def __init__(self, file: int, dropped: Callable[[float], object]) -> None:
        """Begins to write to an open file.

        Args:
            file: its descriptor.
            dropped: told how many lines are dropped, by one thread at a time.
        """
        super().__init__()
        self._file = file
        self._lines: deque[bytes] = deque()
        self._some = Event()
        """Set once there are lines."""
        self._said = self._written = 0
        """Lines so far; those that could not be written count as if they were."""
        self._missing = 0
        """Lines dropped since the last that was not."""
        self._dropped = dropped
        Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Puts a record behind those that wait, if there is room."""
        if self._said - self._written >= MOST_LINES:
            self._drop(1)
            return
        try:
            line = self._line(record)
        except Exception:
            self.handleError(record)
            return
        if self._missing:
            self._put(self._line(_gap(self._missing)))
            self._missing = 0
        self._put(line)

    def flush(self) -> None:
        """Waits until all that has been said is written, `PATIENCE` seconds at most."""
        end = time.monotonic() + PATIENCE
        while self._written < self._said and time.monotonic() < end:
            time.sleep(GATHER)

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode("utf-8", "backslashreplace") + b"\n"

    def _put(self, line: bytes) -> None:
        self._lines.append(line)
        self._said += 1
        if not self._some.is_set():
            self._some.set()

    def _drop(self, lines: int) -> None:
        self._missing += lines
        self._dropped(lines)

    def _write(self) -> None:
        """What the thread does."""
        while True:
            self._some.wait()
            time.sleep(GATHER)
            self._some.clear()
            while self._lines:
                lines = self._packet()
                left = b"".join(lines)
                try:
                    while left:
                        left = left[os.write(self._file, left) :]
                except OSError:  # the disk is full, say, or the reader gone
                    self.acquire()  # `emit` counts too
                    self._drop(len(lines))
                    self.release()
                self._written += len(lines)

    def _packet(self) -> list[bytes]:
        """The oldest line, and those behind it with which it goes through a pipe in one piece: other workers write to
        the same.
        """
        lines = [self._lines.popleft()]
        room = PIPE_BUF - len(lines[0])
        while self._lines and len(self._lines[0]) <= room:
            lines.append(self._lines.popleft())
            room -= len(lines[-1])
        return lines


def _gap(lines: int) -> logging.LogRecord:
    message = f"{lines} lines of the log were dropped: whoever reads it was too slow, or could not be reached"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, None, None)
