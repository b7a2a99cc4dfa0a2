"""The log of the service on its standard output: a line for each event, as text for people or JSON for programs.

A thread writes the lines, so that nothing waits for their reader. If the reader is too slow or has stopped, lines are
dropped and counted, and a later line says how many are missing. Clients cannot forge a line: control characters are
escaped, and in text the lines of a traceback are indented.
"""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from typing import Literal

import msgspec

from service.observability import metrics

Format = Literal["text", "json"]

MAX_LINES = 4096
"""Lines that wait to be written at most: about a second of a busy worker that logs every request."""
GATHER_SECONDS = 0.01
"""Time that lines gather before they are written."""
FLUSH_SECONDS = 1.0
"""Time that `flush` waits at most."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def set_up(level: str, form: Format) -> None:
    """Write the log of this process, that of BentoML and uvicorn included, to its standard output.

    Without a standard output it goes to the standard error. Call `exposition.share` first: dropped lines are counted.

    Args:
        level: of the least severe lines of the service to write.
        form: of each line.
    """
    output = sys.stdout or sys.stderr
    handler = QueuedOutput(output.fileno(), metrics.LOG_LINES_DROPPED.labels().inc)
    handler.setFormatter(_Json() if form == "json" else _Text())
    for name in list(logging.root.manager.loggerDict):  # their lines would be written twice
        other = logging.getLogger(name)
        if other.handlers:
            other.handlers.clear()
            other.propagate = True
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger("bentoml").setLevel(logging.INFO)
    logging.getLogger("service").setLevel(level)


class QueuedOutput(QueueHandler):
    """Queues lines for a thread that writes them. A full queue drops lines instead of blocking."""

    def __init__(self, file: int, dropped: Callable[[float], object]) -> None:
        """Start the thread.

        Args:
            file: descriptor of the open file to write to.
            dropped: called with the number of dropped lines.
        """
        self._lines: Queue[logging.LogRecord] = Queue(MAX_LINES)
        super().__init__(self._lines)
        self._dropped = dropped
        self._missing = 0
        """Lines dropped since the last line that was not."""
        _Listener(self._lines, _Output(file, self._drop)).start()

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            if self._missing:
                self._lines.put_nowait(self.prepare(_gap(self._missing)))
                self._missing = 0
            self._lines.put_nowait(record)
        except Full:
            self._drop()

    def flush(self) -> None:
        """Wait until all lines are written, `FLUSH_SECONDS` at most."""
        end = time.monotonic() + FLUSH_SECONDS
        while self._lines.unfinished_tasks and time.monotonic() < end:
            time.sleep(0.005)

    def _drop(self) -> None:
        self.acquire()  # both the thread and `enqueue` drop lines
        self._missing += 1
        self.release()
        self._dropped(1)


class _Listener(QueueListener):
    """Lets lines gather while there are none to write: to wake the thread for each would cost more."""

    def __init__(self, lines: "Queue[logging.LogRecord]", output: logging.Handler) -> None:
        super().__init__(lines, output)
        self._lines = lines

    def dequeue(self, block: bool) -> logging.LogRecord:
        if self._lines.empty():
            time.sleep(GATHER_SECONDS)
        return self._lines.get(block)


class _Output(logging.Handler):
    """Writes each line to a file descriptor at once: a pipe keeps up to PIPE_BUF bytes of several writers together."""

    def __init__(self, file: int, dropped: Callable[[], object]) -> None:
        super().__init__()
        self._file, self._dropped = file, dropped

    def emit(self, record: logging.LogRecord) -> None:
        left = record.getMessage().encode("utf-8", "backslashreplace") + b"\n"
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:  # the disk is full, or the reader is gone
            self._dropped()


def _gap(lines: int) -> logging.LogRecord:
    message = f"{lines} lines of the log were dropped: its reader was too slow or could not be reached"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, None, None)


class _Json(logging.Formatter):
    """A JSON object on each line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _utc(record),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class _Text(logging.Formatter):
    """Time, level, process, message and the fields of a request; text that a client may have chosen is quoted."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        message = " ".join([record.getMessage(), *(f"{name}={_quoted(value)}" for name, value in fields.items())])
        traceback = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        text = "\n    ".join(map(_escaped, [message, *traceback]))
        return f"{_utc(record)} [{record.levelname}] [{record.process}] {text}"


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _quoted(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) and not value.isalnum() else str(value)


def _utc(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z"
