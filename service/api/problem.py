"""Error responses: `application/problem+json` (RFC 9457), and under `/v2` the form of the Open Inference Protocol.

They say what a client can act on, and never contain a stack trace or a path of this machine.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import ValidationError

from service import errors
from service.api import errors as http_errors
from service.api.routing import JSON, HttpResponse
from service.api.v2.schema import V2Error
from service.errors import Fault, ServiceError

MEDIA_TYPE = "application/problem+json"

MAX_TEXT = 500
"""Characters of a text that comes back to the client who sent it."""
MAX_FAULTS = 64
"""Faults that a response lists; a request with more gets the first ones."""
MAX_VALIDATION_ERRORS = 1000
"""With more, none is listed: to list a million of them would take seconds."""


class Problem(msgspec.Struct, frozen=True):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 400, "maximum": 599})]
    detail: str
    request_id: str
    errors: list[Fault] | UnsetType = UNSET


class _Http(NamedTuple):
    """What HTTP makes of an error."""

    status: int
    headers: Callable[[Any], Mapping[str, str]] = lambda _: {}


_HTTP: dict[type[ServiceError], _Http] = {
    ServiceError: _Http(500),
    errors.ClientError: _Http(400),
    errors.Malformed: _Http(400),
    errors.LoadFailed: _Http(400),
    errors.Unauthorized: _Http(401, lambda _: {"WWW-Authenticate": "Bearer"}),
    http_errors.Forbidden: _Http(403),
    errors.NotFound: _Http(404),
    http_errors.MethodNotAllowed: _Http(405, lambda error: {"Allow": error.allow}),
    errors.TooLarge: _Http(413),
    http_errors.UnsupportedMediaType: _Http(
        415, lambda error: {"Accept": error.accept} if error.accept else {"Accept-Encoding": error.accept_encoding}
    ),
    http_errors.Misdirected: _Http(421),
    errors.Invalid: _Http(422),
    errors.TooManyRequests: _Http(429, lambda error: {"Retry-After": str(error.retry_after_seconds)}),
    errors.Unavailable: _Http(503, lambda error: {"Retry-After": str(error.retry_after_seconds)}),
    errors.DeadlineExceeded: _Http(504),
}
"""By class of error. A class that is not listed is mapped as its base class is."""

_TITLES = {413: "Content Too Large", 414: "URI Too Long", 422: "Unprocessable Content"}
"""By status, where RFC 9110 has another title than Python 3.11."""


def title(status: int) -> str:
    """Return the reason phrase of a status."""
    return _TITLES.get(status) or HTTPStatus(status).phrase


def status_of(error: type[ServiceError]) -> int:
    """Return the status of responses to errors of a class."""
    return _mapping(error).status


def error_response(error: ServiceError, path: str, request_id: str) -> HttpResponse:
    """Return the response to a failed request.

    Args:
        error: why it failed.
        path: of the request; decides the form of the body.
        request_id: of the request.
    """
    status, headers = _mapping(type(error))
    if isinstance(error, http_errors.RefusedByTransport):
        status = error.status
    is_v2 = path.startswith("/v2")
    content = V2Error(_truncate(error.detail)) if is_v2 else _problem(error, status, request_id)
    media_type = JSON if is_v2 else MEDIA_TYPE
    return HttpResponse(msgspec.json.encode(content), media_type, status, headers(error), error.outcome)


def from_validation(error: ValidationError) -> ServiceError:
    """Return the error of a body that pydantic rejects: `Malformed` if it is not JSON, else `Invalid`."""
    if error.error_count() > MAX_VALIDATION_ERRORS:
        return errors.Invalid(f"The request is not valid in {error.error_count():,} places.")
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    if faults[0]["type"] == "json_invalid":
        return errors.Malformed(f"The body is not JSON: {faults[0]['msg'].removeprefix('errors.Invalid JSON: ')}.")
    return errors.Invalid(
        "The request is not valid; `errors` says where.",
        faults=tuple(Fault(fault["loc"], fault["msg"]) for fault in faults[:MAX_FAULTS]),
    )


def _mapping(error: type[ServiceError]) -> _Http:
    return next(_HTTP[each] for each in error.__mro__ if each in _HTTP)


def _problem(error: ServiceError, status: int, request_id: str) -> Problem:
    faults = [
        Fault(tuple(_truncate(part) if isinstance(part, str) else part for part in fault.loc), _truncate(fault.msg))
        for fault in error.faults[:MAX_FAULTS]
    ]
    return Problem("about:blank", title(status), status, _truncate(error.detail), request_id, faults or UNSET)


def _truncate(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
