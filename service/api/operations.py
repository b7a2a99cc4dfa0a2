"""The building blocks of the OpenAPI document: operations, parameters, bodies, and formats for code generators."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from service.version_policy import MODEL, VERSION

Document = dict[str, Any]

SCHEMAS = "#/components/schemas/"
"""Where they are in the document."""

KEYED = (401, 405, 422, 504)
"""Errors of every operation that needs an API key, if there are any."""
PUBLIC: list[Document] = []
"""The security of operations that need no key."""

TEXT: Document = {"type": "string"}
BYTES: Document = {"type": "string", "format": "binary"}
NAME: Document = {"type": "string", "pattern": f"^{MODEL}$"}
NUMBER: Document = {"type": "string", "pattern": f"^{VERSION}$"}

_PATH_PARAMETERS = {
    "name": (NAME, "A model."),
    "version": (NUMBER, "A version of the model."),
    "region": (TEXT, "A region of shared memory."),
}
_HEADERS: dict[int | None, tuple[str, Document, str]] = {
    401: ("WWW-Authenticate", TEXT, "How to authenticate."),
    405: ("Allow", TEXT, "The methods that are allowed."),
    429: ("Retry-After", {"type": "integer", "minimum": 1}, "Seconds after which to try again."),
    503: ("Retry-After", {"type": "integer", "minimum": 1}, "Seconds after which to try again."),
}
"""The headers that errors have beside X-Request-ID, by status."""


def reference(schema: str) -> Document:
    """Return a reference to a schema of the document."""
    return {"$ref": SCHEMAS + schema}


def content(media_type: str, schema: Document) -> Document:
    """Return a body of one media type."""
    return {media_type: {"schema": schema}}


def parameter(name: str, place: str, schema: Document, about: str, *, required: bool = False) -> Document:
    """Return a parameter in the path, the query or a header."""
    return {"name": name, "in": place, "schema": schema, "description": about, "required": required}


def request_headers() -> list[Document]:
    """Return the headers that every request may have."""
    timeout = {"type": "number", "exclusiveMinimum": 0}
    request_id = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[ -~]*$"}
    return [
        parameter("X-Request-Timeout", "header", timeout, "Seconds after which the client no longer waits."),
        parameter("X-Request-ID", "header", request_id, "Returned in the response."),
    ]


def header(name: str, schema: Document, about: str) -> Document:
    """Return a header of a response."""
    return {name: {"schema": schema, "description": about}}


def response(status: int | None, body: Document) -> Document:
    """Return a response with a body; `status` is None for any other error."""
    headers = header("X-Request-ID", TEXT, "Of this request.")
    if status in _HEADERS:
        headers |= header(*_HEADERS[status])
    description = "Any other error." if status is None else HTTPStatus(status).phrase
    return {"description": description, "headers": headers, "content": body}


def operation(
    operation_id: str,
    tag: str,
    summary: str,
    *,
    answer: Document,
    errors: Sequence[int],
    error: Document,
    names: Sequence[str] = (),
) -> Document:
    """Return an operation.

    Args:
        operation_id: the name of the function that generators make of it: unique, and never changed.
        tag: its group.
        summary: what it does.
        answer: the content of a 200.
        errors: the statuses that it answers too.
        error: their content.
        names: the parameters of its path.
    """
    failures = {str(status): response(status, error) for status in sorted(errors)}
    return {
        "operationId": operation_id,
        "tags": [tag],
        "summary": summary,
        "parameters": [parameter(name, "path", *_PATH_PARAMETERS[name], required=True) for name in names],
        "responses": {"200": response(200, answer), **failures, "default": response(None, error)},
    }


def add_formats(schema: Any) -> None:
    """Add a `format` to every integer and number below `schema`, in place.

    Without one, generators for typed languages choose 32-bit integers.
    """
    if isinstance(schema, dict):
        if schema.get("type") == "integer":
            greatest = max(abs(schema.get("minimum", 2**63)), schema.get("maximum", 2**63))
            schema.setdefault("format", "int32" if greatest < 2**31 else "int64")
        elif schema.get("type") == "number":
            schema.setdefault("format", "double")
        for value in schema.values():
            add_formats(value)
    elif isinstance(schema, list):
        for value in schema:
            add_formats(value)
