"""The requests, replies and routes that the rooms of `service.api` hand to each other."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.types import Receive

from service.context import RequestContext

JSON = "application/json"
SINGLE_HEADERS = frozenset((b"x-request-id", b"x-request-timeout", b"inference-header-content-length"))
"""Headers of this API that a request must not repeat: which of two values counts would be anybody's guess."""


@dataclass(slots=True)
class HttpRequest:
    """A request whose body is still to be read."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    """By lower-case name; of a repeated header the last one."""
    receive: Receive
    params: Mapping[str, str] = field(default_factory=dict)
    """What its path says where the template of its route has `{names}`."""

    def header(self, name: bytes) -> str:
        """A header's value, empty if there is none."""
        return self.headers.get(name, b"").decode("latin-1")


@dataclass(slots=True)
class HttpResponse:
    """A response."""

    body: bytes
    media_type: str = JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def json_reply(content: Any) -> HttpResponse:
    """What `msgspec` makes JSON of, as a response."""
    return HttpResponse(msgspec.json.encode(content))


Handler = Callable[[HttpRequest, RequestContext], Awaitable[HttpResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """What answers a path: a handler for each method."""

    template: str
    """Names it in metrics."""
    methods: Mapping[str, Handler]
    public: bool = False
    """Whether it needs no key."""
    probe: bool = False
    """Whether probes and scrapers use it, which reach the server by its IP address."""
    admin: bool = False
    """Whether it needs an admin key in place of an API key. It may take minutes."""
    metered: bool = False
    """Whether requests count against a client's rate limit."""

    @property
    def allowed_methods(self) -> tuple[str, ...]:
        """The methods that it answers, as `Allow` lists them."""
        return (*self.methods, *(("HEAD",) if "GET" in self.methods else ()))
