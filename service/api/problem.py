"""Errors as `application/problem+json` (RFC 9457): what a client can act on, never a stack trace or a path."""

from typing import Any

import msgspec
from pydantic import ValidationError

from service.errors import Fault, Invalid, Malformed, ServiceError

MEDIA_TYPE = "application/problem+json"

MOST_CHARACTERS = 500
MOST_ERRORS = 1000
MOST_FAULTS = 64
"""A request with more gets the first ones."""


def problem(error: ServiceError, request_id: str) -> bytes:
    """The body that answers `error`."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": cut(error.detail),
        "request_id": request_id,
    }
    if error.faults:
        content["errors"] = [
            {"loc": [cut(place) if isinstance(place, str) else place for place in fault.loc], "msg": cut(fault.msg)}
            for fault in error.faults[:MOST_FAULTS]
        ]
    return msgspec.json.encode(content)


def cut(text: str) -> str:
    """What a client wrote comes back to it, but not megabytes of it."""
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + "..."


def from_validation(error: ValidationError) -> ServiceError:
    """Pydantic's verdict on a body: not JSON at all, or JSON that is not valid."""
    if error.error_count() > MOST_ERRORS:  # listing a million of them would take seconds
        return Invalid(f"The request is not valid in {error.error_count():,} places.")
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    if faults[0]["type"] == "json_invalid":
        return Malformed(f"The body is not JSON: {faults[0]['msg'].removeprefix('Invalid JSON: ')}.")
    return Invalid(
        "The request is not valid; `errors` says where.",
        faults=tuple(Fault(fault["loc"], fault["msg"]) for fault in faults[:MOST_FAULTS]),
    )
