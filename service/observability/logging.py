"""What the service says on its standard output: a line an event, for people or as JSON for programs.

Nobody forges a line: what a client wrote comes with its control characters escaped, and in text the lines of a
traceback are indented.
"""

import json
import logging
import re
import sys
import time
from typing import Literal

import msgspec

from service.observability import metrics
from service.observability.writer import Writer

Format = Literal["text", "json"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def set_up(level: str, form: Format) -> None:
    """Writes the log of this process, that of BentoML and uvicorn included, as `form`; a worker counts what is dropped
    of it together with the others, and so has to share its metrics before.

    Args:
        level: the least that is written of what the service itself says.
        form: of each line.
    """
    output = sys.stdout or sys.stderr  # there is no standard output where whoever starts the service has closed it
    writer = Writer(output.fileno(), metrics.LOG_LINES_DROPPED.labels().inc)
    writer.setFormatter(_Json() if form == "json" else _Text())
    for name in list(logging.root.manager.loggerDict):  # each would be written twice
        other = logging.getLogger(name)
        if other.handlers:
            other.handlers.clear()
            other.propagate = True
    logging.root.handlers[:] = [writer]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger("bentoml").setLevel(logging.INFO)
    logging.getLogger("service").setLevel(level)


class _Json(logging.Formatter):
    """An object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _utc(record),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class _Text(logging.Formatter):
    """Time, level, process and message; of a request its facts, in quotes what a client may have made up."""

    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        message = " ".join([record.getMessage(), *(f"{name}={_quoted(value)}" for name, value in facts.items())])
        traceback = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        text = "\n    ".join(map(_escaped, [message, *traceback]))
        return f"{_utc(record)} [{record.levelname}] [{record.process}] {text}"


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _quoted(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) and not value.isalnum() else str(value)


def _utc(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z"
