"""The routes of Triton's extensions that this server lacks: shared memory, trace settings, log settings.

Some clients call them by default, so they answer as a Triton without these extensions does: nothing is registered,
unregistering succeeds, and everything else is refused with the reason. Newer releases of Triton refuse trace and log
settings with 503 and registering with 501. Here all of these are 400, as in older releases: a 503 would invite a retry.
"""

from collections.abc import Iterator

import msgspec

from service.api.routing import JSON, Handler, HttpRequest, HttpResponse, Route, always, json_response
from service.api.v2.schema import Done
from service.context import RequestContext
from service.errors import Malformed, NotFound

_NO_REGIONS = "Shared memory is not supported: there are no regions."
_SETTINGS = (
    ("/v2/trace/setting", "trace", "Trace settings are not supported."),
    ("/v2/models/{name}/trace/setting", "model_trace", "Trace settings are not supported."),
    ("/v2/logging", "log", "Log settings are not supported."),
)
"""Paths, what is set there, and why they are refused."""


class SharedMemoryRegion(msgspec.Struct, frozen=True):
    """A registered region of shared memory. There is none."""

    name: str
    byte_size: int


async def _no_region(request: HttpRequest, _context: RequestContext) -> HttpResponse:
    raise NotFound(f"There is no shared memory region {request.params['region']!r}: shared memory is not supported.")


def _refuse(reason: str) -> Handler:
    async def handle(_request: HttpRequest, _context: RequestContext) -> HttpResponse:
        raise Malformed(reason)

    return handle


def _routes() -> Iterator[Route]:
    yield from _shared_memory("/v2/systemsharedmemory", "v2_system_shared_memory")
    yield from _shared_memory("/v2/cudasharedmemory", "v2_cuda_shared_memory")
    for path, subject, reason in _SETTINGS:
        for method, verb in (("GET", "get"), ("POST", "update")):
            operation_id = f"v2_{verb}_{subject}_settings"
            yield Route(method, path, _refuse(reason), operation_id, reason, response={JSON: Done}, errors=(Malformed,))


def _shared_memory(path: str, prefix: str) -> Iterator[Route]:
    region = f"{path}/region/{{region}}"
    regions, done = {JSON: list[SharedMemoryRegion]}, {JSON: Done}
    none, succeed = always(json_response([])), always(json_response(Done()))
    register = _refuse("Shared memory is not supported: send tensors in the request.")
    for method, where, handler, verb, response, error in (
        ("GET", f"{path}/status", none, "status", regions, None),
        ("POST", f"{path}/unregister", succeed, "unregister_all", done, None),
        ("GET", f"{region}/status", _no_region, "region_status", regions, NotFound),
        ("POST", f"{region}/register", register, "register", done, Malformed),
        ("POST", f"{region}/unregister", succeed, "unregister", done, None),
    ):
        errors = () if error is None else (error,)
        yield Route(method, where, handler, f"{prefix}_{verb}", _NO_REGIONS, response=response, errors=errors)


UNSUPPORTED = tuple(_routes())
"""All of these routes."""
