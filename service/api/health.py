"""What probes, load balancers and Prometheus ask: liveness, readiness and metrics; and how a worker leaves rotation."""

import asyncio
import signal
from collections.abc import Callable

from service.api.body import compressed
from service.api.negotiation import preferred_media_type
from service.api.routing import PLAIN_TEXT, TEXT, Content, Handler, HttpRequest, HttpResponse, Route, always
from service.context import RequestContext
from service.errors import ServiceError, Unavailable
from service.observability.exposition import MEDIA_TYPES, exposition, read_metrics
from service.registry.readiness import Readiness

LIVE = "Whether the process can answer."
READY = "Whether every model is loaded and warm."

_OK = HttpResponse(b"ok\n", PLAIN_TEXT)


class Health:
    """The health of a worker.

    After SIGTERM a worker drains: it serves for some time, reports that it is not ready, so that load balancers choose
    other servers, and closes each connection after a response, so that clients do too.
    """

    def __init__(self, readiness: Callable[[], Readiness]) -> None:
        """Create the health of a worker; `readiness` returns that of its models, once start-up is complete."""
        self.is_draining = False
        self._readiness = readiness
        text = {"text/plain": TEXT}
        formats = "Prometheus metrics, as text or, if asked for, as OpenMetrics."
        self.routes = [
            probe("/livez", always(_OK), "get_livez", LIVE, text),
            probe("/healthz", always(_OK), "get_healthz", LIVE, text),
            probe("/readyz", self._ready, "get_readyz", READY, text, Unavailable),
            probe("/metrics", _metrics, "get_metrics", formats, text),
        ]

    def drain_on_sigterm(self, seconds: float) -> None:
        """Drain for a number of seconds after SIGTERM, or until the second SIGTERM, before stopping.

        Call it in the main thread, in the event loop that serves, once uvicorn handles SIGTERM.
        """
        loop, stop = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
        assert callable(stop), "uvicorn ends its main loop by this handler"

        def drain() -> None:
            delay = 0 if self.is_draining else seconds
            self.is_draining = True
            loop.call_later(delay, stop, signal.SIGTERM, None)

        loop.add_signal_handler(signal.SIGTERM, drain)

    def check_ready(self) -> None:
        """Check that load balancers may send requests here.

        Raises:
            Unavailable: the server is stopping, a model that must be ready is not, or the workers serve other versions.
        """
        if self.is_draining:
            raise Unavailable("The server is about to stop.")
        self._readiness().check()

    async def _ready(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        self.check_ready()
        return _OK


async def _metrics(request: HttpRequest, _context: RequestContext) -> HttpResponse:
    media_type = preferred_media_type(request.header(b"accept"), MEDIA_TYPES) or MEDIA_TYPES[0]

    def expose() -> HttpResponse:
        response = HttpResponse(*exposition(media_type), headers={"Vary": "Accept"})
        return compressed(response, request.header(b"accept-encoding"))

    return await read_metrics(expose)


def probe(
    path: str, handler: Handler, operation_id: str, summary: str, response: Content, *errors: type[ServiceError]
) -> Route:
    """Return a route for probes and scrapers: it needs no key, and answers to any IP address as `Host`."""
    return Route("GET", path, handler, operation_id, summary, "public", response, errors, is_probe=True)
