"""Requests, responses and routes: what the modules of `service.api` hand to each other."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from starlette.types import Receive

from service.api.errors import MethodNotAllowed
from service.context import RequestContext
from service.errors import NotFound, ServiceError
from service.version_policy import VERSION

JSON = "application/json"
PLAIN_TEXT = "text/plain; charset=utf-8"

SINGLE_HEADERS = frozenset((b"x-request-id", b"x-request-timeout", b"inference-header-content-length"))
"""Headers of this API that a request must not repeat: it would be unclear which value counts."""

Document = dict[str, Any]
"""An OpenAPI document, or a part of one."""

Schema = Any
"""The schema of a body: a pydantic model, a type that msgspec can convert, or a JSON schema."""

Content = Mapping[str, Schema]
"""A body: its schema by media type."""

TEXT: Document = {"type": "string"}
BYTES: Document = {"type": "string", "format": "binary"}
VERSION_NUMBER: Document = {"type": "string", "pattern": f"^{VERSION}$"}

Access = Literal["public", "api_key", "admin_key"]
"""The key that a route needs: none; an API key, if any are configured; or an admin key."""

_PARAMETER = re.compile(r"\{(\w+)\}")


@dataclass(slots=True)
class HttpRequest:
    """A request whose body has not been read yet."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    """By lower-case name. Of a repeated header it has the last value."""
    receive: Receive
    params: Mapping[str, str] = field(default_factory=dict)
    """The parts of the path that stand for parameters of the route's template, by their names."""

    def header(self, name: bytes) -> str:
        """Return the value of a header; empty if the request does not have it."""
        return self.headers.get(name, b"").decode("latin-1")


@dataclass(slots=True)
class HttpResponse:
    """A response."""

    body: bytes
    media_type: str = JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    outcome: str = "ok"
    """The value of the label `outcome` in metrics, logs and traces."""


Handler = Callable[[HttpRequest, RequestContext], Awaitable[HttpResponse]]


def json_response(content: Any) -> HttpResponse:
    """Return a response with `content` as JSON, encoded by msgspec."""
    return HttpResponse(msgspec.json.encode(content))


def always(response: HttpResponse) -> Handler:
    """Return a handler that always returns the same response."""

    async def handle(_request: HttpRequest, _context: RequestContext) -> HttpResponse:
        return response

    return handle


@dataclass(frozen=True, slots=True)
class Parameter:
    """A header or a parameter of the query, as the OpenAPI document describes it."""

    name: str
    description: str
    schema: Document
    place: Literal["query", "header"] = "header"


REQUEST_ID: Document = {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[ -~]*$"}
TIMEOUT: Document = {"type": "number", "exclusiveMinimum": 0}
REQUEST_HEADERS = (
    Parameter("X-Request-Timeout", "Seconds after which the client no longer waits.", TIMEOUT),
    Parameter("X-Request-ID", "Returned in the response.", REQUEST_ID),
)
"""Headers that every request may have; the document lists them where clients predict."""


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path: its handler, the rules for it, and its description in the OpenAPI document."""

    method: str
    template: str
    """The path, with parameters as `{name}`. The label `route` in metrics and logs."""
    handler: Handler
    operation_id: str = ""
    """The name that code generators give its function: unique, and never changed. Empty hides it from the document."""
    summary: str = ""

    access: Access = "api_key"
    response: Content = field(default_factory=dict)
    """The body of a 200."""
    errors: tuple[type[ServiceError], ...] = ()
    """Those that do not follow from the other fields."""
    request: Content | None = None
    """The body; None if it has none."""
    parameters: tuple[Parameter, ...] = ()
    """Those that are not in the path."""
    response_headers: tuple[Parameter, ...] = ()
    """Those that only this route has."""
    description: str = ""

    is_probe: bool = False
    """Whether it also answers to any IP address as `Host`, which is how probes and scrapers reach a pod."""
    is_rate_limited: bool = False
    """Whether its requests count against the client's rate limit."""
    timeout_seconds: float | None = None
    """How long a request may take; by default what the settings say."""


class Resource:
    """The routes of a path."""

    def __init__(self, template: str) -> None:
        self.template = template
        self.parameters: list[str] = _PARAMETER.findall(template)
        self.is_probe = False
        self._routes: dict[str, Route] = {}

    def add(self, route: Route) -> None:
        """Add a route. That of GET also answers HEAD."""
        self._routes[route.method] = route
        if route.method == "GET":
            self._routes["HEAD"] = route
        self.is_probe |= route.is_probe

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that have a route."""
        return tuple(self._routes)

    def route(self, method: str) -> Route:
        """Return the route of a method.

        Raises:
            NotFound: the path has no routes.
            MethodNotAllowed: the path has routes of other methods.
        """
        if (route := self._routes.get(method)) is not None:
            return route
        if not self._routes:
            raise NotFound("There is nothing at this path.")
        raise MethodNotAllowed(method, ", ".join(self._routes))


UNKNOWN = Resource("other")
"""Stands for every path without routes."""


class Router:
    """Finds the routes of a path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[str, Resource] = {}
        """By path, those without parameters."""
        self._variable: dict[int, dict[tuple[int, ...], dict[str, Resource]]] = {}
        """By number of segments, then by positions of the parameters, then by path with empty parameters."""
        for route in routes:
            segments = route.template.split("/")
            positions = tuple(index for index, segment in enumerate(segments) if _PARAMETER.fullmatch(segment))
            resources = self._fixed
            if positions:
                resources = self._variable.setdefault(len(segments), {}).setdefault(positions, {})
            resources.setdefault(_PARAMETER.sub("", route.template), Resource(route.template)).add(route)

    def find(self, path: str) -> tuple[Resource, Mapping[str, str]]:
        """Return the resource at a path and the values of its parameters. An unknown path gives `UNKNOWN`.

        A template without parameters goes before one with.
        """
        if (fixed := self._fixed.get(path)) is not None:
            return fixed, {}
        segments = path.split("/")
        for positions, resources in self._variable.get(len(segments), {}).items():
            literals, values = segments.copy(), [segments[index] for index in positions]
            for index in positions:
                literals[index] = ""
            if (resource := resources.get("/".join(literals))) is not None and all(values):
                return resource, dict(zip(resource.parameters, values, strict=True))
        return UNKNOWN, {}
