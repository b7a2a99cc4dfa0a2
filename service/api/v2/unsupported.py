"""The routes of Triton's extensions that need more than this server has: shared memory, trace settings, log settings.

Some clients call them by default, so they answer as a Triton without these extensions does: nothing is registered,
unregistering succeeds, and everything else is refused with the reason. Newer releases of Triton refuse trace and log
settings with 503 and registering with 501. Here all of these are 400, as in older releases: a 503 would invite a retry.
"""

from collections.abc import Iterator

import msgspec

from service.api.messages import Handler, HttpRequest, HttpResponse, Route, json_reply
from service.context import RequestContext
from service.errors import Malformed, NotFound

SHARED_MEMORY = ("systemsharedmemory", "cudasharedmemory")
SETTINGS = {
    "/v2/trace/setting": "Trace settings are not supported.",
    "/v2/models/{name}/trace/setting": "Trace settings are not supported.",
    "/v2/logging": "Log settings are not supported.",
}
"""Paths, and why they are refused."""


class SharedMemoryRegion(msgspec.Struct, frozen=True):
    """A registered region of shared memory. There is none."""

    name: str
    byte_size: int


async def _no_regions(_request: HttpRequest, _context: RequestContext) -> HttpResponse:
    return json_reply([])


async def _unregister(_request: HttpRequest, _context: RequestContext) -> HttpResponse:
    return json_reply({})


async def _no_region(request: HttpRequest, _context: RequestContext) -> HttpResponse:
    raise NotFound(f"There is no shared memory region {request.params['region']!r}: shared memory is not supported.")


def _refuse(reason: str) -> Handler:
    async def handle(_request: HttpRequest, _context: RequestContext) -> HttpResponse:
        raise Malformed(reason)

    return handle


def _routes() -> Iterator[Route]:
    register = _refuse("Shared memory is not supported: send tensors in the request.")
    for kind in SHARED_MEMORY:
        every, one = f"/v2/{kind}", f"/v2/{kind}/region/{{region}}"
        yield Route(f"{every}/status", {"GET": _no_regions})
        yield Route(f"{every}/unregister", {"POST": _unregister})
        yield Route(f"{one}/status", {"GET": _no_region})
        yield Route(f"{one}/register", {"POST": register})
        yield Route(f"{one}/unregister", {"POST": _unregister})
    for path, reason in SETTINGS.items():
        yield Route(path, dict.fromkeys(("GET", "POST"), _refuse(reason)))


UNSUPPORTED = tuple(_routes())
"""All of these routes."""
