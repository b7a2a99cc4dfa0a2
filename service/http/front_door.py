"""The ASGI app in front of BentoML's: it serves the routes that the service class declares.

Every request gets an id and a counted outcome, and every error is a problem document. BentoML's own app is asked only
for the pages listed here, so that none of its other routes can be reached.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.call import Call, current_call, new_request_id
from service.errors import DeadlineExceeded, MethodNotAllowed, NotFound, ServiceError
from service.http.admission import Admission
from service.http.bodies import ClientGone
from service.http.catalogue import Catalogue
from service.http.draining import DRAIN
from service.http.encodings import compressed
from service.http.messages import Handler, HttpRequest, Reply, Route
from service.http.negotiation import preferred_media_type
from service.http.openapi import api_page, openapi
from service.http.problems import MEDIA_TYPE as PROBLEM
from service.http.problems import problem
from service.http.routing import Router
from service.http.tasks import TaskEndpoint
from service.http.v2.routes import OpenInference, Service, error_reply
from service.settings import Settings
from service.telemetry import logs, metrics
from service.telemetry.collecting import collect, exposition
from service.telemetry.series import MEDIA_TYPES, TEXT
from service.telemetry.traces import trace_id

if TYPE_CHECKING:
    from service.telemetry.spans import Tracing

logger = logging.getLogger(__name__)

_BENTOML_PAGES = ("/schema.json", "/static_content/swagger-ui.css", "/static_content/swagger-ui-bundle.js")
"""What BentoML's own app is asked for: what its clients read, and the scripts of the API page."""

_REQUEST_ID = re.compile(rb"[\x20-\x7e]{1,128}")

_NOWHERE: tuple[Route, Mapping[str, str]] = (Route("other", {}, public=True), {})


class FrontDoor:
    """The ASGI application."""

    def __init__(
        self,
        bentoml_app: ASGIApp,
        tasks: Sequence[TaskEndpoint],
        tensors: OpenInference,
        service: Callable[[], Service],
        admission: Admission,
        settings: Settings,
        tracing: "Tracing | None",
    ) -> None:
        """Stands in front of `bentoml_app`, which runs the lifespan and answers `_BENTOML_PAGES`.

        Args:
            bentoml_app: BentoML's.
            tasks: the task endpoints, served here.
            tensors: the routes under `/v2`, served here.
            service: gives the models, once start-up is complete.
            admission: whom it lets in.
            settings: how long it drains, and how many requests are logged.
            tracing: traces the requests, if they are.
        """
        self._bentoml_app = bentoml_app
        self._service = service
        self._admission = admission
        self._settings = settings
        self._tracing = tracing
        routes = [
            *(Route(task.route, {"POST": task}, metered=True) for task in tasks),
            *Catalogue(lambda: service().models).routes,
            *tensors.routes,
            # BentoML answers GET itself, so that only other methods come to these routes: to be refused.
            *(Route(page, {"GET": _always(_OK)}, public=True) for page in _BENTOML_PAGES),
            Route("/", {"GET": _always(api_page())}, public=True),
            Route("/docs.json", {"GET": _always(openapi(tasks))}, public=True),
            Route("/livez", {"GET": _always(_OK)}, public=True),
            Route("/healthz", {"GET": _always(_OK)}, public=True),
            Route("/readyz", {"GET": self._ready}, public=True),
            Route("/metrics", {"GET": _metrics}, public=True),
        ]
        self._router = Router(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            DRAIN.await_signal(self._settings.drain_seconds)
            await self._bentoml_app(scope, receive, send)
            if self._tracing is not None:
                self._tracing.close()
        else:
            await self._bentoml_app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, whatever happens."""
        method, path = scope["method"], scope["path"]
        route, params = self._router.find(path) or _NOWHERE
        headers = dict(scope["headers"])
        request = HttpRequest(method, path, scope["query_string"], headers, receive, params, scope["client"])
        call = Call(_request_id(request.headers.get(b"x-request-id")), started=time.perf_counter())
        current_call.set(call)  # of this task: `Connection` makes one for each request
        call.trace_id = trace_id(request.headers.get(b"traceparent"))
        trace = None
        if self._tracing is not None:
            trace = self._tracing.begin(method, route.template, request.headers, call)
        outcome = "failed"
        try:
            if path in _BENTOML_PAGES and method in ("GET", "HEAD"):
                await self._bentoml_app(scope, receive, _identified(send, call))
                outcome = "ok"
                return
            try:
                reply, ending = await self._answer(route, request, call), "ok"
            except ServiceError as error:
                reply, ending = _refusal(error, path, call), error.outcome
            except Exception:
                logger.exception("request %s failed", call.request_id)
                failure = ServiceError("The server failed to answer.")
                reply, ending = _refusal(failure, path, call), failure.outcome
            await _send(reply, call, send, with_body=method != "HEAD")
            outcome = ending
        except (ClientGone, asyncio.CancelledError):  # `Connection` cancels what nobody waits for
            outcome = "abandoned"
        finally:
            ended = time.perf_counter()
            requests = metrics.requests(route.template, call.model, call.served_version, outcome)
            requests.ended(call, ended - call.started, is_example=trace is not None and trace.is_sampled)
            if trace is not None:
                trace.end(outcome, ended)
            logs.tell(method, route.template, call, outcome, ended, self._settings.log_requests)

    async def _answer(self, route: Route, request: HttpRequest, call: Call) -> Reply:
        """What the route's handler says.

        Raises:
            ServiceError: it says no, or nothing answers this path and method.
        """
        if not route.methods:
            raise NotFound("There is nothing at this path.")
        handler = route.methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = [*route.methods, *(["HEAD"] if "GET" in route.methods else [])]
            raise MethodNotAllowed(request.method, ", ".join(allowed))
        if route.public:
            return await handler(request, call)
        seconds = self._admission.admit(route, request)
        # What `asyncio.timeout` does, at a third of its cost.
        task = asyncio.current_task()
        assert task is not None
        timer = asyncio.get_running_loop().call_later(seconds, call.expire, task)
        try:
            return await handler(request, call)
        except asyncio.CancelledError as error:
            if not call.expired:
                raise
            raise DeadlineExceeded("The deadline passed before the answer was ready.") from error
        finally:
            timer.cancel()

    async def _ready(self, _request: HttpRequest, _call: Call) -> Reply:
        """Ready when all workers serve the same and each model has a version, until the server is told to stop."""
        DRAIN.check_not_under_way()
        self._service().readiness.check()
        return _OK


_OK = Reply(b"ok\n", "text/plain; charset=utf-8")


def _always(reply: Reply) -> Handler:
    """A handler that has one answer."""

    async def handle(_request: HttpRequest, _call: Call) -> Reply:
        return reply

    return handle


async def _metrics(request: HttpRequest, _call: Call) -> Reply:
    media_type = preferred_media_type(request.header(b"accept"), MEDIA_TYPES) or TEXT

    def exposed() -> Reply:
        reply = Reply(*exposition(media_type), headers={"Vary": "Accept"})
        return compressed(reply, request.header(b"accept-encoding"))

    return await collect(exposed)


def _refusal(error: ServiceError, path: str, call: Call) -> Reply:
    """An error as those expect it who ask for such a path."""
    if path.startswith("/v2"):
        return error_reply(error)
    return Reply(problem(error, call.request_id), PROBLEM, error.status, error.headers)


def _request_id(given: bytes | None) -> str:
    """The client's own id if it is usable, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return new_request_id()


def _identified(send: Send, call: Call) -> Send:
    """`send`, with the request's id among the headers."""

    async def with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            call.status = message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", call.request_id.encode())]
        await send(message)

    return with_id


def _timing(call: Call) -> bytes:
    """Where the time went, in milliseconds: what waited for a run, the run, and all."""
    total = 1000 * (time.perf_counter() - call.started)
    if not call.ran:
        return b"total;dur=%.3f" % total
    queue, run = 1000 * (call.began - call.queued), 1000 * (call.ran - call.began)
    return b"queue;dur=%.3f, run;dur=%.3f, total;dur=%.3f" % (queue, run, total)


async def _send(reply: Reply, call: Call, send: Send, *, with_body: bool) -> None:
    call.status = reply.status
    headers = [
        (b"content-type", reply.media_type.encode()),
        (b"content-length", str(len(reply.body)).encode()),
        (b"x-request-id", call.request_id.encode()),
        (b"server-timing", _timing(call)),
        *((name.lower().encode(), value.encode()) for name, value in reply.headers.items()),
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body if with_body else b""})
