"""Every way a request can fail, as one small tree: each error has its HTTP status and says what the client can do.

Whoever finds the fault raises the error; `service.api.problem` alone turns it into a response.
"""

import re
from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with a request: where it is (`loc`, as in `("reviews", 3)`) and what (`msg`)."""

    loc: tuple[str | int, ...]
    msg: str


class StartupError(Exception):
    """The service cannot start; the message names the setting or the file at fault."""


class ServiceError(Exception):
    """The root: a request that gets an error answer. `detail` is written for the client who sent it."""

    status = 500
    title = "Internal Server Error"
    outcome = "failed"
    """What metrics count it as."""

    def __init__(self, detail: str, *, faults: tuple[Fault, ...] = (), headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = faults
        self.headers = headers or {}


class ClientError(ServiceError):
    """The request is at fault: sent again as it is, it fails again."""

    outcome = "invalid"


class Malformed(ClientError):
    """The body is not what its Content-Type says: not JSON, broken multipart."""

    status = 400
    title = "Bad Request"


class LoadFailed(ClientError):
    """A model that was to be loaded has a version that has not proved itself; what serves goes on."""

    status = 400
    title = "Bad Request"


class Unauthorized(ClientError):
    """API keys are configured and the request carries none that is valid."""

    status = 401
    title = "Unauthorized"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(ClientError):
    """The server understood the request and refuses it, whatever key it carries."""

    status = 403
    title = "Forbidden"


class NotFound(ClientError):
    """No such path, model or version."""

    status = 404
    title = "Not Found"


class MethodNotAllowed(ClientError):
    """The path exists, the method does not; `allow` lists those that do."""

    status = 405
    title = "Method Not Allowed"

    def __init__(self, method: str, allow: str) -> None:
        super().__init__(f"{method} is not allowed here.", headers={"Allow": allow})


class TooLarge(ClientError):
    """The body has too many bytes or a picture too many pixels; decided before it is read or decoded."""

    status = 413
    title = "Content Too Large"


class UnsupportedMediaType(ClientError):
    """A Content-Type or Content-Encoding that the endpoint does not take; a header says which it takes: `Accept` or
    `Accept-Encoding` (RFC 9110 section 15.5.16).
    """

    status = 415
    title = "Unsupported Media Type"


class Misdirected(ClientError):
    """The request names a host that this server does not answer to (RFC 9110 section 15.5.20)."""

    status = 421
    title = "Misdirected Request"


class Invalid(ClientError):
    """Well-formed, but not valid; `faults` say which item and field."""

    status = 422
    title = "Unprocessable Content"


class NotServed(ClientError):
    """A request that HTTP/1.1 forbids or that the server does not implement; `status` says which."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.title = HTTPStatus(status).phrase.removeprefix("Request-")  # what Python < 3.13 says for 414


class TooManyRequests(ServiceError):
    """The client is over its rate limit; nothing was computed, so it is safe to retry."""

    status = 429
    title = "Too Many Requests"
    outcome = "rejected"

    def __init__(self, detail: str, *, retry_after: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class Unavailable(ServiceError):
    """The queue is full, the model is not ready or the server drains; nothing was computed, so it is safe to retry."""

    status = 503
    title = "Service Unavailable"
    outcome = "rejected"

    def __init__(self, detail: str, *, retry_after: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after)})


class DeadlineExceeded(ServiceError):
    """The request's deadline passed while it waited; it left the queue uncomputed."""

    status = 504
    title = "Gateway Timeout"
    outcome = "expired"


MOST_MESSAGE_CHARACTERS = 1000
"""Longest message of an error from a library; the longest useful one, about an unknown ONNX opset, has 500."""
_DIRECTORY = re.compile(r'(?<=")/[^"]*/(?=[^"]*")|(?<![\w.:/])/[^\s"]*/(?=[^\s"]*)')
"""The directory of an absolute path, in quotes or not."""


def clean_message(text: str) -> str:
    """Return a message that may be shown to clients: one printable line without directories, not too long."""
    line = " ".join(_DIRECTORY.sub("", text).split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= MOST_MESSAGE_CHARACTERS else f"{line[:MOST_MESSAGE_CHARACTERS]}..."
