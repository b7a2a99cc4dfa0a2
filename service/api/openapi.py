"""The documentation that the server serves: the OpenAPI document, derived from the routes, and a page to try them.

BentoML's own page is not used: it reports its visitors to a third party.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from service import errors
from service.api.errors import MethodNotAllowed
from service.api.problem import MEDIA_TYPE as PROBLEM
from service.api.problem import Problem, status_of, title
from service.api.routing import (
    JSON,
    TEXT,
    VERSION_NUMBER,
    Access,
    Content,
    Document,
    HttpRequest,
    HttpResponse,
    Parameter,
    Resource,
    Route,
    Schema,
    always,
)
from service.api.v2.schema import DOCUMENTED_ELEMENTS, V2Error
from service.context import RequestContext
from service.errors import ServiceError
from service.version_policy import MODEL

_TAGS = {"/v2": "v2", "/v1/models": "models", "/v1": "tasks"}
"""Groups of operations, by the beginning of their path; the first match counts, and the others are `operations`."""

_PATH_PARAMETERS: dict[str, tuple[Document, str]] = {
    "name": ({"type": "string", "pattern": f"^{MODEL}$"}, "A model."),
    "version": (VERSION_NUMBER, "A version of the model."),
    "region": (TEXT, "A region of shared memory."),
}

_RETRY_AFTER = Parameter("Retry-After", "Seconds after which to try again.", {"type": "integer", "minimum": 1})
_ERROR_HEADERS = {
    status_of(errors.Unauthorized): Parameter("WWW-Authenticate", "How to authenticate.", TEXT),
    status_of(MethodNotAllowed): Parameter("Allow", "The methods that are allowed.", TEXT),
    status_of(errors.TooManyRequests): _RETRY_AFTER,
    status_of(errors.Unavailable): _RETRY_AFTER,
}
"""The headers that error responses have in addition to X-Request-ID, by status."""

_REQUEST_ID = Parameter("X-Request-ID", "Of this request.", TEXT)

_SECURITY: dict[Access, list[Document]] = {"public": [], "admin_key": [{"admin": []}]}
"""By access, if it is not the default of the document, an API key."""

_REFERENCE = "#/components/schemas/{name}"


def documentation(routes: Sequence[Route]) -> list[Route]:
    """Return the routes that document these routes and themselves."""

    async def show_document(_request: HttpRequest, _context: RequestContext) -> HttpResponse:
        return document

    page = always(_page())
    own = [
        Route(
            "GET", "/docs.json", show_document, "get_openapi", "This document.", "public", {JSON: {"type": "object"}}
        ),
        Route("GET", "/", page, "get_api_page", "The interactive API page.", "public", {"text/html": TEXT}),
    ]
    document = HttpResponse(json.dumps(openapi([*routes, *own])).encode())
    return own


def openapi(routes: Sequence[Route]) -> Document:
    """Return the OpenAPI 3.1 document of the routes that have an operation id."""
    routes = [route for route in routes if route.operation_id]
    schemas = _Schemas(routes)
    paths: dict[str, Document] = {}
    for route in routes:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, schemas)
    document: Document = {
        "openapi": "3.1.0",
        "info": {
            "title": "deepserve",
            "version": "1",
            "description": "Four classic neural networks, served.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {name: {"type": "http", "scheme": "bearer"} for name in ("key", "admin")},
        },
        "security": [{}, {"key": []}],
    }
    document = json.loads(json.dumps(document))  # no two places may share an object that is changed
    _add_formats(document)
    return document


class _Schemas:
    """The schemas of the bodies of routes."""

    def __init__(self, routes: Sequence[Route]) -> None:
        bodies: dict[tuple[Any, JsonSchemaMode], None] = {}
        for route in routes:
            bodies |= {(schema, "validation"): None for schema in (route.request or {}).values() if _is_type(schema)}
            bodies |= {(schema, "serialization"): None for schema in route.response.values() if _is_type(schema)}
        models = [(schema, mode) for schema, mode in bodies if _is_model(schema)]
        types = [*(schema for schema, _ in bodies if not _is_model(schema)), Problem, V2Error]
        of_models, definitions = models_json_schema(models, ref_template=_REFERENCE.replace("name", "model"))
        of_types, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
        if "InputTensor" in components:
            components["InputTensor"]["properties"]["data"] = DOCUMENTED_ELEMENTS
        self.components: Document = {**definitions.get("$defs", {}), **components}
        self._references = {model: schema for (model, _), schema in of_models.items()}
        self._references |= dict(zip(types, of_types, strict=True))

    def content(self, body: Content) -> Document:
        """Return the content of a body."""
        return {media_type: {"schema": self._schema(schema)} for media_type, schema in body.items()}

    def has_required_fields(self, body: Content) -> bool:
        """Return whether the JSON of a body has fields that are not optional."""
        schema = self._schema(body[JSON])
        if "$ref" in schema:
            schema = self.components[schema["$ref"].rpartition("/")[2]]
        return bool(schema.get("required"))

    def _schema(self, schema: Schema) -> Document:
        found: Document = self._references[schema] if _is_type(schema) else schema
        return found


def _is_type(schema: Schema) -> bool:
    return not isinstance(schema, dict)


def _is_model(schema: Schema) -> bool:
    return isinstance(schema, type) and issubclass(schema, BaseModel)


def _operation(route: Route, schemas: _Schemas) -> Document:
    is_v2 = route.template.startswith("/v2")
    error = schemas.content({JSON: V2Error} if is_v2 else {PROBLEM: Problem})
    responses = {"200": _response("OK", schemas.content(route.response), route.response_headers)}
    for status in sorted({status_of(each) for each in _errors(route)}):
        headers = [_ERROR_HEADERS[status]] if status in _ERROR_HEADERS else []
        responses[str(status)] = _response(title(status), error, headers)
    operation = {
        "operationId": route.operation_id,
        "tags": [next((tag for start, tag in _TAGS.items() if route.template.startswith(start)), "operations")],
        "summary": route.summary,
        "parameters": list(_parameters(route)),
        "responses": {**responses, "default": _response("Any other error.", error)},
    }
    if route.description:
        operation["description"] = route.description
    if route.request is not None:
        required = schemas.has_required_fields(route.request)
        operation["requestBody"] = {"required": required, "content": schemas.content(route.request)}
    if route.access in _SECURITY:
        operation["security"] = _SECURITY[route.access]
    return operation


def _errors(route: Route) -> Iterator[type[ServiceError]]:
    """Yield the possible errors of a route: its own, and the errors of the checks before its handler."""
    yield MethodNotAllowed
    if route.access != "public":
        yield from (errors.Unauthorized, errors.Invalid, errors.DeadlineExceeded)
    if route.is_rate_limited:
        yield errors.TooManyRequests
    if route.request is not None:
        yield from (errors.Malformed, errors.TooLarge)
    yield from route.errors


def _parameters(route: Route) -> Iterator[Document]:
    for name in Resource(route.template).parameters:
        schema, description = _PATH_PARAMETERS[name]
        yield {"name": name, "in": "path", "required": True, "schema": schema, "description": description}
    for each in route.parameters:
        described = {"schema": each.schema, "description": each.description}
        yield {"name": each.name, "in": each.place, "required": False, **described}


def _response(description: str, content: Document, headers: Sequence[Parameter] = ()) -> Document:
    described = {
        each.name: {"schema": each.schema, "description": each.description} for each in (_REQUEST_ID, *headers)
    }
    return {"description": description, "headers": described, "content": content}


def _add_formats(schema: Any) -> None:
    """Add a `format` to every integer and number below `schema`, in place.

    Without one, generators for typed languages choose 32-bit integers.
    """
    if isinstance(schema, dict):
        if schema.get("type") == "integer":
            largest = max(abs(schema.get("minimum", 2**63)), schema.get("maximum", 2**63))
            schema.setdefault("format", "int32" if largest < 2**31 else "int64")
        elif schema.get("type") == "number":
            schema.setdefault("format", "double")
        for value in schema.values():
            _add_formats(value)
    elif isinstance(schema, list):
        for value in schema:
            _add_formats(value)


def _page() -> HttpResponse:
    """Return the page: Swagger UI, which BentoML brings, and nothing from other servers."""
    page = Path(__file__).with_name("api_page.html").read_text()
    script = page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'self'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; img-src data:"
    return HttpResponse(page.encode(), "text/html; charset=utf-8", headers={"Content-Security-Policy": policy})
