"""The ASGI application answers every request, and records how it ended."""

import asyncio
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.api.app import Api
from service.api.body import read_body
from service.api.errors import Forbidden, UnsupportedMediaType
from service.api.health import Health
from service.api.routing import HttpRequest, HttpResponse, Route, always, json_response
from service.context import RequestContext
from service.errors import (
    DeadlineExceeded,
    Fault,
    Invalid,
    LoadFailed,
    Malformed,
    NotFound,
    ServiceError,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from service.registry.readiness import Readiness
from service.settings import Settings

ORIGIN = "https://app.example.org"
ERRORS: list[tuple[Exception, int, str]] = [
    (Malformed("why"), 400, "invalid"),
    (LoadFailed("why"), 400, "invalid"),
    (Unauthorized("why"), 401, "invalid"),
    (Forbidden("why"), 403, "invalid"),
    (NotFound("why"), 404, "invalid"),
    (TooLarge("why"), 413, "invalid"),
    (UnsupportedMediaType("why", accept="text/csv"), 415, "invalid"),
    (Invalid("why", faults=(Fault(("rows", 3), "bad"),)), 422, "invalid"),
    (TooManyRequests("why", retry_after_seconds=2), 429, "rejected"),
    (Unavailable("why", retry_after_seconds=3), 503, "rejected"),
    (DeadlineExceeded("why"), 504, "expired"),
    (ServiceError("why"), 500, "failed"),
    (RuntimeError("/etc/secret"), 500, "failed"),
    (TimeoutError("/etc/secret"), 500, "failed"),
]


@dataclass
class Response:
    """What the application sent."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def content(self) -> Any:
        return json.loads(self.body)


async def bentoml_app(scope: Scope, _receive: Receive, send: Send) -> None:
    """Stands for BentoML's application: it knows a page and its entity tag."""
    not_modified = (b"if-none-match", b'"1"') in scope["headers"]
    headers = [(b"etag", b'"1"')] if not_modified else [(b"content-type", b"text/css"), (b"etag", b'"1"')]
    await send({"type": "http.response.start", "status": 304 if not_modified else 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if not_modified else b"a {", "more_body": True})
    await send({"type": "http.response.body", "body": b"" if not_modified else b"}"})


class Ready(Readiness):
    """The readiness of a server whose models are all ready."""

    def __init__(self) -> None:
        pass

    def check(self) -> None:
        pass


async def echo(request: HttpRequest, _context: RequestContext) -> HttpResponse:
    return HttpResponse(await read_body(request, 8), "text/plain")


async def show(request: HttpRequest, context: RequestContext) -> HttpResponse:
    return json_response({"params": dict(request.params), "id": context.request_id, "client": context.client})


async def wait(_request: HttpRequest, _context: RequestContext) -> HttpResponse:
    await asyncio.sleep(60)
    raise AssertionError("it was not cancelled")


class Application:
    """An application with routes that do what its tests need."""

    def __init__(self, **settings: Any) -> None:
        self.error: Exception = ServiceError("none")
        self.health = Health(Ready)
        routes = [
            Route("GET", "/v1/things/{name}", show),
            Route("GET", "/v1/fail", self._fail),
            Route("GET", "/v2/fail", self._fail),
            Route("POST", "/v1/echo", echo, is_rate_limited=True),
            Route("GET", "/v1/wait", wait),
            Route("POST", "/v1/change", wait, access="admin_key", timeout_seconds=0.02),
            Route("GET", "/public", always(HttpResponse(b"hello", "text/plain")), access="public"),
            *self.health.routes,
        ]
        chosen = Settings(log_requests_fraction=1, **settings)
        self.api = Api(bentoml_app, routes, self.health, chosen)

    async def _fail(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        raise self.error

    async def ask(self, method: str, path: str, body: bytes | None = b"", **headers: str) -> Response:
        """The response to a request; a body of None stands for a client that disconnects. Names of headers have
        underscores in place of hyphens.
        """
        named = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in named.items()],
            "client": ("192.0.2.7", 1234),
        }
        response = Response()

        async def receive() -> Message:
            return {"type": "http.disconnect"} if body is None else {"type": "http.request", "body": body}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                response.status = message["status"]
                response.headers = {name.decode(): value.decode() for name, value in message["headers"]}
                assert len(response.headers) == len(message["headers"])
            else:
                response.body += message["body"]

        await asyncio.create_task(self.api(scope, receive, send))
        return response


@pytest.fixture
def app() -> Application:
    return Application()


@pytest.fixture
def ended(caplog: pytest.LogCaptureFixture) -> Iterator[list[Mapping[str, Any]]]:
    """What the log says of each request that has ended."""
    facts: list[Mapping[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            facts.append(vars(record)["fields"])

    caplog.set_level(logging.INFO, "service.requests")
    logger, keep = logging.getLogger("service.requests"), Keep()
    logger.addHandler(keep)
    yield facts
    logger.removeHandler(keep)


pytestmark = pytest.mark.anyio


async def test_a_response_has_an_id_a_length_and_timings(app: Application, ended: list[Mapping[str, Any]]) -> None:
    response = await app.ask("GET", "/v1/things/cup", x_request_id="mine")
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    assert response.content == {"params": {"name": "cup"}, "id": "mine", "client": "192.0.2.7"}
    assert response.headers["x-request-id"] == "mine"
    assert int(response.headers["content-length"]) == len(response.body)
    assert response.headers["server-timing"].startswith("total;dur=")
    [line] = ended
    assert (line["request_id"], line["route"], line["status"], line["outcome"]) == (
        *("mine", "/v1/things/{name}"),
        *(200, "ok"),
    )


@pytest.mark.parametrize("request_id", ["", "x" * 129, "caf\xe9", "a\tb"])
async def test_an_id_that_is_not_valid_is_replaced(app: Application, request_id: str) -> None:
    found = (await app.ask("GET", "/public", x_request_id=request_id)).headers["x-request-id"]
    assert found != request_id
    assert len(found) == 32


async def test_head_has_the_headers_of_get_without_its_body(app: Application) -> None:
    get, head = await app.ask("GET", "/public"), await app.ask("HEAD", "/public")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"] == "5"


@pytest.mark.parametrize(("error", "status", "outcome"), ERRORS)
@pytest.mark.parametrize("path", ["/v1/fail", "/v2/fail"])
async def test_an_error_is_a_response_of_its_status_and_form(
    app: Application, ended: list[Mapping[str, Any]], path: str, error: Exception, status: int, outcome: str
) -> None:
    app.error = error
    response = await app.ask("GET", path)
    assert (response.status, ended[-1]["status"], ended[-1]["outcome"]) == (status, status, outcome)
    assert b"secret" not in response.body
    detail = "why" if isinstance(error, ServiceError) else "The server failed to answer."
    if path.startswith("/v2"):
        assert response.content == {"error": detail}
    else:
        assert response.headers["content-type"] == "application/problem+json"
        assert (response.content["detail"], response.content["status"]) == (detail, status)
        assert response.content["request_id"] == response.headers["x-request-id"]
        assert ("errors" in response.content) == (status == 422)
    assert ("retry-after" in response.headers) == (status in (429, 503))


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "BREW"])
async def test_another_method_is_not_allowed(app: Application, method: str) -> None:
    response = await app.ask(method, "/public")
    assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/things/", "/schema", "/static_content/secret"])
async def test_an_unknown_path_is_not_found_and_has_one_label(
    app: Application, ended: list[Mapping[str, Any]], path: str
) -> None:
    assert (await app.ask("GET", path)).status == 404
    assert ended[-1]["route"] == "other"


async def test_bentoml_is_asked_for_its_pages_alone(app: Application) -> None:
    page = await app.ask("GET", "/static_content/swagger-ui.css", x_request_id="mine")
    assert (page.status, page.body, page.headers["content-type"]) == (200, b"a {}", "text/css")
    assert (page.headers["x-request-id"], page.headers["etag"]) == ("mine", '"1"')
    known = await app.ask("GET", "/static_content/swagger-ui.css", if_none_match='"1"')
    assert (known.status, known.body, "content-type" in known.headers) == (304, b"", False)
    head = await app.ask("HEAD", "/static_content/swagger-ui.css")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "4")
    assert (await app.ask("POST", "/static_content/swagger-ui.css")).status == 405


async def test_the_order_is_host_cors_method_key_rate_deadline_handler() -> None:
    app = Application(
        allowed_hosts="localhost",
        cors_origins=ORIGIN,
        api_keys="key",
        admin_keys="admin",
        rate_limit_per_second=0.001,
        rate_burst=1,
    )
    bad: dict[str, str] = {"host": "evil.example", "origin": "https://evil.example", "x_request_timeout": "soon"}
    preflight = {"access_control_request_method": "POST"}
    statuses = []
    for method, path, headers in (
        ("OPTIONS", "/v1/echo", {**bad, **preflight}),
        ("OPTIONS", "/v1/echo", {**bad, **preflight, "host": "localhost"}),
        ("OPTIONS", "/v1/echo", {**preflight, "origin": ORIGIN}),
        ("PUT", "/v1/echo", {"x_request_timeout": "soon"}),
        ("POST", "/v1/echo", {"x_request_timeout": "soon"}),
        ("POST", "/v1/echo", {"x_request_timeout": "soon", "authorization": "Bearer key"}),
        ("POST", "/v1/echo", {"x_request_timeout": "soon", "authorization": "Bearer key"}),
        ("GET", "/v1/fail", {"x_request_timeout": "soon", "authorization": "Bearer key"}),
        ("GET", "/v1/things/x", {"authorization": "Bearer key"}),
        ("POST", "/v1/change", {"authorization": "Bearer key"}),
        ("GET", "/public", {}),
    ):
        statuses.append((await app.ask(method, path, **headers)).status)
    assert statuses == [421, 403, 200, 405, 401, 422, 429, 422, 200, 401, 200]


async def test_a_valid_key_authenticates_a_request_even_over_its_limit(ended: list[Mapping[str, Any]]) -> None:
    """Refused requests without a valid key are logged within a limit; those with one always."""
    app = Application(api_keys="key", rate_limit_per_second=0.001, rate_burst=1, log_refusals_per_second=1)
    key = {"authorization": "Bearer key"}
    with_key = [(await app.ask("POST", "/v1/echo", **key)).status for _ in range(5)]
    assert (with_key, len(ended)) == ([200, 429, 429, 429, 429], 5)
    assert {(await app.ask("POST", "/v1/echo")).status for _ in range(9)} == {401}
    assert len(ended) < 5 + 9


async def test_only_rate_limited_routes_count_and_only_admitted_requests() -> None:
    app = Application(api_keys="key", rate_limit_per_second=0.001, rate_burst=2)
    key = {"authorization": "Bearer key"}
    assert {(await app.ask("POST", "/v1/echo")).status for _ in range(3)} == {401}
    assert {(await app.ask("GET", "/v1/things/x", **key)).status for _ in range(3)} == {200}
    assert [(await app.ask("POST", "/v1/echo", **key)).status for _ in range(3)] == [200, 200, 429]


async def test_a_probe_reaches_the_server_by_its_address() -> None:
    app = Application(allowed_hosts="api.example.org")
    assert [(await app.ask("GET", path, host="10.0.0.1:3000")).status for path in ("/livez", "/public")] == [200, 421]


async def test_a_listed_origin_may_read_every_response() -> None:
    app = Application(cors_origins=ORIGIN)
    for path, status in (("/public", 200), ("/v1/fail", 500), ("/nowhere", 404), ("/schema.json", 200)):
        response = await app.ask("GET", path, origin=ORIGIN)
        assert (response.status, response.headers["access-control-allow-origin"]) == (status, ORIGIN)
        assert "access-control-allow-origin" not in (await app.ask("GET", path, origin="https://x.example")).headers
    preflight = await app.ask("OPTIONS", "/v1/echo", origin=ORIGIN, access_control_request_method="POST")
    assert (preflight.status, preflight.headers["access-control-allow-methods"]) == (200, "POST")
    assert preflight.headers["access-control-allow-origin"] == ORIGIN


async def test_a_deadline_of_the_client_or_the_server_ends_a_request(ended: list[Mapping[str, Any]]) -> None:
    app = Application(request_timeout_seconds=0.02, admin_keys="admin")
    assert (await app.ask("GET", "/v1/wait")).status == 504
    assert (await app.ask("GET", "/v1/wait", x_request_timeout="0.001")).status == 504
    assert (await app.ask("GET", "/v1/wait", x_request_timeout="60")).status == 504
    assert (await app.ask("POST", "/v1/change", authorization="Bearer admin")).status == 504, "its route's own"
    assert {line["outcome"] for line in ended} == {"expired"}


async def test_a_request_whose_client_is_gone_gets_no_response_and_is_counted(
    app: Application, ended: list[Mapping[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    response = await app.ask("POST", "/v1/echo", body=None)
    assert (response.status, ended[-1]["outcome"]) == (0, "abandoned")
    task = asyncio.create_task(app.ask("GET", "/v1/wait"))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [line["outcome"] for line in ended] == ["abandoned", "abandoned"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_response_that_cannot_be_sent_is_a_failure(app: Application, ended: list[Mapping[str, Any]]) -> None:
    async def send(_message: Message) -> None:
        raise OSError("no")

    async def receive() -> Message:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/public", "query_string": b"", "headers": [], "client": None}
    with pytest.raises(OSError, match="no"):
        await app.api(scope, receive, send)
    assert ended[-1]["outcome"] == "failed"


async def test_a_draining_server_is_live_and_serves_but_is_not_ready(app: Application) -> None:
    assert (await app.ask("GET", "/readyz")).status == 200
    app.health.is_draining = True
    statuses = {path: (await app.ask("GET", path)).status for path in ("/livez", "/healthz", "/readyz", "/public")}
    assert statuses == {"/livez": 200, "/healthz": 200, "/readyz": 503, "/public": 200}


async def test_metrics_are_compressed_for_clients_that_accept_it(app: Application) -> None:
    response = await app.ask("GET", "/metrics", accept_encoding="gzip")
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/plain")
    assert "Accept" in response.headers["vary"]
