"""The errors that end a request or a start. They know no protocol: `service.api.problem` maps each to an HTTP response.

ServiceError
├── ClientError
│   ├── Malformed
│   ├── Invalid
│   ├── TooLarge
│   ├── NotFound
│   ├── Unauthorized
│   ├── LoadFailed
│   └── errors that exist only in HTTP: see `service.api.errors`
├── TooManyRequests
├── Unavailable
└── DeadlineExceeded
StartupError

A class that groups others, and the root of a tree, ends in `Error`. The others are named after what happened.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a request. `loc` leads to it, by names of fields and indices of items."""

    loc: tuple[str | int, ...]
    msg: str


class StartupError(Exception):
    """The service cannot start. The message names the setting or the file at fault."""


class ServiceError(Exception):
    """A request that gets an error response. Raised itself, it is an internal error."""

    outcome = "failed"
    """The value of the label `outcome` in metrics, logs and traces."""

    def __init__(self, detail: str, *, faults: tuple[Fault, ...] = ()) -> None:
        """Create an error.

        Args:
            detail: a message for the client.
            faults: what is wrong with the request, and where.
        """
        super().__init__(detail)
        self.detail = detail
        self.faults = faults


class ClientError(ServiceError):
    """The request is at fault. The same request would fail again."""

    outcome = "invalid"


class Malformed(ClientError):
    """The body cannot be parsed as its Content-Type, or not as what the endpoint expects."""


class Invalid(ClientError):
    """The request can be parsed, but has values that are not valid. `faults` lists them."""


class TooLarge(ClientError):
    """The body has too many bytes, or an image too many pixels. Raised before it is read or decoded."""


class NotFound(ClientError):
    """The path, the model or the version does not exist."""


class Unauthorized(ClientError):
    """The request needs a key and has no valid one."""


class LoadFailed(ClientError):
    """A version of the model could not be loaded. The versions that serve are unchanged."""


class TooManyRequests(ServiceError):
    """The client exceeds its rate limit. Nothing was computed, so that the client may retry."""

    outcome = "rejected"

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(ServiceError):
    """The queue is full, the model is not ready, or the server is stopping. Nothing was computed: retry later."""

    outcome = "rejected"

    def __init__(self, detail: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class DeadlineExceeded(ServiceError):
    """The deadline of the request passed. A request that was still in the queue was not computed."""

    outcome = "expired"


MAX_MESSAGE_CHARACTERS = 1000
"""Longest message of an error from a library; the longest useful one, about an unknown ONNX opset, has 500."""
_DIRECTORY = re.compile(r'(?<=")/[^"]*/(?=[^"]*")|(?<![\w.:/])/[^\s"]*/(?=[^\s"]*)')
"""The directory of an absolute path, in quotes or not."""


def clean_message(text: str) -> str:
    """Return a message that may be shown to clients: one printable line without directories, not too long."""
    line = " ".join(_DIRECTORY.sub("", text).split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= MAX_MESSAGE_CHARACTERS else f"{line[:MAX_MESSAGE_CHARACTERS]}..."
