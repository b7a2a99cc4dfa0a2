"""The ASGI application of a worker, in front of BentoML's.

Each request gets an id, a response, and an outcome in metrics, log and trace. BentoML's application runs the lifespan
of the service, and is asked for three pages; none of its other routes can be reached.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Sequence

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.auth import Authenticator, client_id
from service.api.client_address import TrustedProxies
from service.api.cors import CrossOrigin, Headers
from service.api.deadline import timeout_seconds
from service.api.health import Health
from service.api.hosts import AllowedHosts
from service.api.models import Catalogue
from service.api.openapi import documentation
from service.api.problem import error_response
from service.api.rate_limit import rate_limit
from service.api.routing import HttpRequest, HttpResponse, Resource, Route, Router
from service.api.tasks import TaskEndpoint, task_route
from service.api.v2.routes import OpenInference, Service
from service.context import Deadline, RequestContext, new_request_id
from service.errors import ServiceError
from service.observability import metrics
from service.observability.request_log import RequestLog
from service.observability.tracing import Trace, Tracing, trace_id
from service.settings import Settings

logger = logging.getLogger(__name__)

_BENTOML_PAGES = ("/schema.json", "/static_content/swagger-ui.css", "/static_content/swagger-ui-bundle.js")
"""What BentoML's application is asked for: what its clients read, and the parts of the page at `/`."""

_REQUEST_ID = re.compile(rb"[\x20-\x7e]{1,128}")
_NOT_MODIFIED = 304


def all_routes(
    tasks: Sequence[TaskEndpoint], service: Callable[[], Service], settings: Settings, health: Health
) -> list[Route]:
    """Return the routes that the OpenAPI document describes.

    Args:
        tasks: the task endpoints.
        service: returns the models and what computes with them, once start-up is complete.
        settings: of the server.
        health: of this worker.
    """
    routes = [
        *map(task_route, tasks),
        *Catalogue(lambda: service().models).routes,
        *health.routes,
        *OpenInference(service, settings, health).routes,
    ]
    return [*routes, *documentation(routes)]


class Api:
    """The ASGI application."""

    def __init__(
        self,
        bentoml_app: ASGIApp,
        routes: Sequence[Route],
        health: Health,
        settings: Settings,
        tracing: Tracing | None = None,
    ) -> None:
        """Create the application.

        Args:
            bentoml_app: BentoML's application.
            routes: what is served in front of it.
            health: of this worker.
            settings: of the server.
            tracing: traces the requests, if they are traced.
        """
        self._bentoml_app = bentoml_app
        self._router = Router([*routes, *(_bentoml_route(path, bentoml_app) for path in _BENTOML_PAGES)])
        self._health = health
        self._drain_seconds = settings.drain_seconds
        self._timeout_seconds = settings.request_timeout_seconds
        self._allowed_hosts = AllowedHosts(settings.allowed_hosts) if settings.allowed_hosts else None
        self._cross_origin = CrossOrigin(settings.cors_origins) if settings.cors_origins else None
        self._authenticator = Authenticator(settings.api_keys, settings.admin_keys)
        self._rate_limit = rate_limit(settings)
        networks, header = settings.trusted_proxies, settings.forwarded_header
        self._proxies = TrustedProxies(networks, header) if networks else None
        self._log = RequestLog(settings)
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._run_lifespan(scope, receive, send)
        else:
            await self._bentoml_app(scope, receive, send)

    async def _run_lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the service from start to shutdown."""
        self._health.drain_on_sigterm(self._drain_seconds)
        await self._bentoml_app(scope, receive, send)
        if self._rate_limit is not None:
            await self._rate_limit.close()
        if self._tracing is not None:
            self._tracing.close()
        self._log.close()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and record how it ended."""
        method, path = scope["method"], scope["path"]
        resource, params = self._router.find(path)
        headers = dict(scope["headers"])
        request = HttpRequest(method, path, scope["query_string"], headers, receive, params)
        context = RequestContext(_request_id(headers.get(b"x-request-id")), started=time.perf_counter())
        context.client = self._client_address(scope)
        context.trace_id = trace_id(headers.get(b"traceparent"))
        trace = None
        if self._tracing is not None:
            trace = self._tracing.begin(method, resource.template, headers, context)
        outcome = "failed"  # if the response cannot be sent
        try:
            response = await self._respond(resource, request, context)
            cors = self._cross_origin.headers(headers.get(b"origin")) if self._cross_origin is not None else ()
            await _send(response, context, send, cors, with_body=method != "HEAD")
            outcome = response.outcome
        except (ClientDisconnect, asyncio.CancelledError):  # the transport cancels the task when its client is gone
            outcome = "abandoned"
        finally:
            self._record(method, resource.template, context, outcome, trace)

    async def _respond(self, resource: Resource, request: HttpRequest, context: RequestContext) -> HttpResponse:
        """Return the response to a request: an error response if the request fails.

        Raises:
            ClientDisconnect: the client is gone.
        """
        try:
            return await self._handle(resource, request, context)
        except ServiceError as error:
            return error_response(error, request.path, context.request_id)
        except ClientDisconnect:
            raise
        except Exception:
            logger.exception("request %s failed", context.request_id)
            return error_response(ServiceError("The server failed to answer."), request.path, context.request_id)

    async def _handle(self, resource: Resource, request: HttpRequest, context: RequestContext) -> HttpResponse:
        """Check a request, and have its route handle it.

        Raises:
            ServiceError: a check fails, or the route does.
        """
        headers = request.headers
        if self._allowed_hosts is not None:
            self._allowed_hosts.check(headers.get(b"host", b""), is_probe=resource.is_probe)
        if self._cross_origin is not None:
            preflight = self._cross_origin.preflight(request, resource.methods)
            if preflight is not None:
                return preflight
        route = resource.route(request.method)
        if route.access == "public":
            return await route.handler(request, context)
        key = self._authenticator.authenticate(route.access, headers.get(b"authorization"))
        context.authenticated = key is not None
        if self._rate_limit is not None and route.is_rate_limited:
            await self._rate_limit.check(client_id(key, context.client))
        limit = route.timeout_seconds or self._timeout_seconds
        with Deadline(context.started + timeout_seconds(headers.get(b"x-request-timeout"), limit)):
            return await route.handler(request, context)

    def _record(self, method: str, template: str, context: RequestContext, outcome: str, trace: Trace | None) -> None:
        """Count a request that has ended, end its trace, and log it."""
        ended = time.perf_counter()
        requests = metrics.requests(template, context.model, context.served_version, outcome)
        requests.ended(context, ended - context.started, is_example=trace is not None and trace.is_sampled)
        if trace is not None:
            trace.end(outcome, ended)
        self._log.record(method, template, context, outcome, ended)

    def _client_address(self, scope: Scope) -> str:
        """Return the address of the client; empty if it has none."""
        peer: str = scope["client"][0] if scope["client"] else ""
        return peer if self._proxies is None else self._proxies.client(peer, scope["headers"])


def _request_id(header: bytes | None) -> str:
    """Return the id that the client chose, if it is valid, or a new one."""
    if header is not None and _REQUEST_ID.fullmatch(header):
        return header.decode("ascii")
    return new_request_id()


async def _send(response: HttpResponse, context: RequestContext, send: Send, cors: Headers, *, with_body: bool) -> None:
    context.status = response.status
    headers = [
        (b"x-request-id", context.request_id.encode()),
        (b"server-timing", _server_timing(context)),
        *((name.lower().encode(), value.encode()) for name, value in response.headers.items()),
        *cors,
    ]
    if response.status != _NOT_MODIFIED:  # which has no body to describe
        content_type = (b"content-type", response.media_type.encode())
        headers += (content_type, (b"content-length", b"%d" % len(response.body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body if with_body else b""})


def _server_timing(context: RequestContext) -> bytes:
    """Return the durations of the wait in the queue, the run and the whole request, in milliseconds."""
    total = 1000 * (time.perf_counter() - context.started)
    timings = context.timings
    if timings is None or not timings.queued:
        return b"total;dur=%.3f" % total
    queue, run = 1000 * (timings.started - timings.queued), 1000 * (timings.ended - timings.started)
    return b"queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f" % (queue, run, total)


def _bentoml_route(path: str, app: ASGIApp) -> Route:
    """Return the route of a page for which BentoML's application is asked."""

    async def ask(request: HttpRequest, _context: RequestContext) -> HttpResponse:
        head: Message = {}
        chunks: list[bytes] = []

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
            else:
                chunks.append(message.get("body", b""))

        await app(_scope(request), request.receive, keep)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in head["headers"]}
        headers.pop("content-length", None)
        return HttpResponse(b"".join(chunks), headers.pop("content-type", ""), head["status"], headers)

    return Route("GET", path, ask, access="public")


def _scope(request: HttpRequest) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": request.query,
        "headers": [*request.headers.items()],
        "client": None,
        "server": None,
    }
