"""The ASGI app in front of BentoML's: it serves the routes that the service class declares.

Every request gets an id and a counted outcome, and every error is a problem document. BentoML's own app is asked only
for the pages listed here, so that none of its other routes can be reached.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.auth import Admission
from service.api.body import ClientGone
from service.api.client_address import TrustedProxies
from service.api.content_coding import compressed
from service.api.cors import CrossOrigin, Headers
from service.api.draining import DRAIN
from service.api.hosts import AllowedHosts
from service.api.messages import Handler, HttpRequest, HttpResponse, Route
from service.api.models import Catalogue
from service.api.negotiation import preferred_media_type
from service.api.openapi import api_page, openapi
from service.api.problem import MEDIA_TYPE as PROBLEM
from service.api.problem import problem
from service.api.routing import Router
from service.api.tasks import TaskEndpoint
from service.api.v2.routes import OpenInference, Service, error_reply
from service.context import RequestContext, current_call, new_request_id
from service.errors import DeadlineExceeded, MethodNotAllowed, NotFound, ServiceError
from service.observability import metrics
from service.observability.exposition import MEDIA_TYPES, TEXT, exposition, read_metrics
from service.observability.request_log import RequestLog
from service.observability.tracing import Tracing, trace_id
from service.settings import Settings

logger = logging.getLogger(__name__)

_BENTOML_PAGES = ("/schema.json", "/static_content/swagger-ui.css", "/static_content/swagger-ui-bundle.js")
"""What BentoML's own app is asked for: what its clients read, and the scripts of the API page."""

_REQUEST_ID = re.compile(rb"[\x20-\x7e]{1,128}")

_NOWHERE: tuple[Route, Mapping[str, str]] = (Route("other", {}, public=True), {})


class Api:
    """The ASGI application."""

    def __init__(
        self,
        bentoml_app: ASGIApp,
        tasks: Sequence[TaskEndpoint],
        tensors: OpenInference,
        service: Callable[[], Service],
        admission: Admission,
        settings: Settings,
        tracing: Tracing | None,
    ) -> None:
        """Stands in front of `bentoml_app`, which runs the lifespan and answers `_BENTOML_PAGES`.

        Args:
            bentoml_app: BentoML's.
            tasks: the task endpoints, served here.
            tensors: the routes under `/v2`, served here.
            service: gives the models, once start-up is complete.
            admission: whom it lets in.
            settings: how long it drains, which requests are logged, and which hosts, origins and proxies it knows.
            tracing: traces the requests, if they are.
        """
        self._bentoml_app = bentoml_app
        self._service = service
        self._admission = admission
        self._drain_seconds = settings.drain_seconds
        self._log = RequestLog(settings)
        self._allowed_hosts = AllowedHosts(settings.allowed_hosts) if settings.allowed_hosts else None
        self._cross_origin = CrossOrigin(settings.cors_origins) if settings.cors_origins else None
        self._proxies = (
            TrustedProxies(settings.trusted_proxies, settings.forwarded_header) if settings.trusted_proxies else None
        )
        self._tracing = tracing
        routes = [
            *(Route(task.route, {"POST": task}, metered=True) for task in tasks),
            *Catalogue(lambda: service().models).routes,
            *tensors.routes,
            *(Route(page, {"GET": _always(_BENTOML_PAGE)}, public=True) for page in _BENTOML_PAGES),
            Route("/", {"GET": _always(api_page())}, public=True),
            Route("/docs.json", {"GET": _always(openapi(tasks))}, public=True),
            Route("/livez", {"GET": _always(_OK)}, public=True, probe=True),
            Route("/healthz", {"GET": _always(_OK)}, public=True, probe=True),
            Route("/readyz", {"GET": self._ready}, public=True, probe=True),
            Route("/metrics", {"GET": _metrics}, public=True, probe=True),
        ]
        self._router = Router(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            DRAIN.await_signal(self._drain_seconds)
            await self._bentoml_app(scope, receive, send)
            await self._admission.close()
            if self._tracing is not None:
                self._tracing.close()
            self._log.close()
        else:
            await self._bentoml_app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, whatever happens."""
        method, path = scope["method"], scope["path"]
        route, params = self._router.find(path) or _NOWHERE
        headers = dict(scope["headers"])
        request = HttpRequest(method, path, scope["query_string"], headers, receive, params)
        context = RequestContext(_request_id(request.headers.get(b"x-request-id")), started=time.perf_counter())
        current_call.set(context)  # of this task: `Connection` makes one for each request
        context.client = self._client(scope)
        context.trace_id = trace_id(request.headers.get(b"traceparent"))
        trace = None
        if self._tracing is not None:
            trace = self._tracing.begin(method, route.template, request.headers, context)
        outcome = "failed"
        try:
            try:
                if self._allowed_hosts is not None:
                    self._allowed_hosts.check(request.headers.get(b"host", b""), is_probe=route.probe)
                reply, ending = await self._answer(route, request, context), "ok"
            except ServiceError as error:
                reply, ending = _refusal(error, path, context), error.outcome
            except Exception:
                logger.exception("request %s failed", context.request_id)
                failure = ServiceError("The server failed to answer.")
                reply, ending = _refusal(failure, path, context), failure.outcome
            cors = self._cross_origin.headers(headers.get(b"origin")) if self._cross_origin is not None else ()
            if reply is _BENTOML_PAGE:
                await self._bentoml_app(scope, receive, _identified(send, context, cors))
            else:
                await _send(reply, context, send, cors, with_body=method != "HEAD")
            outcome = ending
        except (ClientGone, asyncio.CancelledError):  # `Connection` cancels what nobody waits for
            outcome = "abandoned"
        finally:
            ended = time.perf_counter()
            requests = metrics.requests(route.template, context.model, context.served_version, outcome)
            requests.ended(context, ended - context.started, is_example=trace is not None and trace.is_sampled)
            if trace is not None:
                trace.end(outcome, ended)
            self._log.record(method, route.template, context, outcome, ended)

    async def _answer(self, route: Route, request: HttpRequest, context: RequestContext) -> HttpResponse:
        """What the route's handler says.

        Raises:
            ServiceError: it says no, or nothing answers this path and method.
        """
        if self._cross_origin is not None and (preflight := self._cross_origin.preflight(request, route)) is not None:
            return preflight
        if not route.methods:
            raise NotFound("There is nothing at this path.")
        handler = route.methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            raise MethodNotAllowed(request.method, ", ".join(route.allowed_methods))
        if route.public:
            return await handler(request, context)
        seconds = await self._admission.admit(route, request, context)
        # What `asyncio.timeout` does, at a third of its cost.
        task = asyncio.current_task()
        assert task is not None
        timer = asyncio.get_running_loop().call_later(seconds, context.expire, task)
        try:
            return await handler(request, context)
        except asyncio.CancelledError as error:
            if not context.expired:
                raise
            raise DeadlineExceeded("The deadline passed before the answer was ready.") from error
        finally:
            timer.cancel()

    def _client(self, scope: Scope) -> str:
        """Return the address of the client, empty if it has none."""
        peer: str = scope["client"][0] if scope["client"] else ""
        return peer if self._proxies is None else self._proxies.client(peer, scope["headers"])

    async def _ready(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        """Ready when all workers serve the same and each model has a version, until the server is told to stop."""
        DRAIN.check_not_under_way()
        self._service().readiness.check()
        return _OK


_OK = HttpResponse(b"ok\n", "text/plain; charset=utf-8")

_BENTOML_PAGE = HttpResponse(b"")
"""A placeholder: BentoML's own app sends the response."""


def _always(reply: HttpResponse) -> Handler:
    """A handler that has one answer."""

    async def handle(_request: HttpRequest, _context: RequestContext) -> HttpResponse:
        return reply

    return handle


async def _metrics(request: HttpRequest, _context: RequestContext) -> HttpResponse:
    media_type = preferred_media_type(request.header(b"accept"), MEDIA_TYPES) or TEXT

    def exposed() -> HttpResponse:
        reply = HttpResponse(*exposition(media_type), headers={"Vary": "Accept"})
        return compressed(reply, request.header(b"accept-encoding"))

    return await read_metrics(exposed)


def _refusal(error: ServiceError, path: str, context: RequestContext) -> HttpResponse:
    """An error as those expect it who ask for such a path."""
    if path.startswith("/v2"):
        return error_reply(error)
    return HttpResponse(problem(error, context.request_id), PROBLEM, error.status, error.headers)


def _request_id(given: bytes | None) -> str:
    """The client's own id if it is usable, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return new_request_id()


def _identified(send: Send, context: RequestContext, cors: Headers) -> Send:
    """Return `send` with the request's id and the CORS fields among the headers."""

    async def with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            context.status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", context.request_id.encode()), *cors]
        await send(message)

    return with_id


def _timing(context: RequestContext) -> bytes:
    """Where the time went, in milliseconds: what waited for a run, the run, and all."""
    total = 1000 * (time.perf_counter() - context.started)
    if not context.ran:
        return b"total;dur=%.3f" % total
    queue, run = 1000 * (context.began - context.queued), 1000 * (context.ran - context.began)
    return b"queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f" % (queue, run, total)


async def _send(reply: HttpResponse, context: RequestContext, send: Send, cors: Headers, *, with_body: bool) -> None:
    context.status = reply.status
    headers = [
        (b"content-type", reply.media_type.encode()),
        (b"content-length", str(len(reply.body)).encode()),
        (b"x-request-id", context.request_id.encode()),
        (b"server-timing", _timing(context)),
        *((name.lower().encode(), value.encode()) for name, value in reply.headers.items()),
        *cors,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body if with_body else b""})
