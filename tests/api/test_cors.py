"""Pages of the listed origins may call the server, and preflight requests are answered."""

import pytest
from starlette.types import Message

from service.api.cors import CrossOrigin
from service.api.errors import Forbidden
from service.api.routing import HttpRequest, HttpResponse
from service.settings import Settings

APP, LOCAL, EVIL = b"https://app.example.org", b"http://localhost:5173", b"https://evil.example"
LISTED = CrossOrigin(Settings(cors_origins="https://app.example.org, http://localhost:5173").cors_origins)
ANY = CrossOrigin(Settings(cors_origins="*").cors_origins)


async def no_body() -> Message:
    raise AssertionError("nobody reads it")


DIGITS = ("POST",)
MODELS = ("GET", "HEAD")
UNKNOWN = ()


def asks(origin: bytes | None, method: str = "OPTIONS", **headers: str) -> HttpRequest:
    """A request with headers whose names have underscores in place of hyphens."""
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    if origin is not None:
        named[b"origin"] = origin
    return HttpRequest(method, "/", b"", named, no_body)


def preflight(cors: CrossOrigin, origin: bytes, methods: tuple[str, ...] = DIGITS, **headers: str) -> HttpResponse:
    reply = cors.preflight(asks(origin, access_control_request_method="POST", **headers), methods)
    assert reply is not None
    return reply


def listed(reply: HttpResponse, name: str) -> set[str]:
    return {each.strip() for each in reply.headers[name].split(",")}


@pytest.mark.parametrize("origin", [APP, LOCAL])
def test_a_listed_origin_may_read_the_response(origin: bytes) -> None:
    headers = dict(LISTED.headers(origin))
    assert headers[b"access-control-allow-origin"] == origin
    assert headers[b"vary"] == b"Origin"
    exposed = headers[b"access-control-expose-headers"].split(b", ")
    for name in (b"X-Request-ID", b"X-Model-Version", b"X-Seed", b"Server-Timing", b"Retry-After"):
        assert name in exposed
    assert b"Inference-Header-Content-Length" in exposed


@pytest.mark.parametrize(
    "origin",
    [
        *(
            None,
            b"",
            b"null",
            EVIL,
            b"http://app.example.org",
            b"https://app.example.org:8443",
            b"https://APP.example.org",
        ),
        *(b"https://app.example.org.evil.example", b"https://evil.example/https://app.example.org", b"*"),
    ],
)
def test_other_origins_may_not_and_the_response_varies_by_origin(origin: bytes | None) -> None:
    assert LISTED.headers(origin) == ((b"vary", b"Origin"),)


@pytest.mark.parametrize("origin", [None, b"null", EVIL, APP])
def test_with_the_wildcard_every_page_may_without_cookies(origin: bytes | None) -> None:
    headers = dict(ANY.headers(origin))
    assert headers[b"access-control-allow-origin"] == b"*"
    assert headers.keys() == {b"access-control-allow-origin", b"access-control-expose-headers"}


def test_a_preflight_is_answered_with_the_methods_of_the_route() -> None:
    assert listed(preflight(LISTED, APP, DIGITS), "Access-Control-Allow-Methods") == {"POST"}
    assert listed(preflight(LISTED, APP, MODELS), "Access-Control-Allow-Methods") == {"GET", "HEAD"}


def test_a_preflight_of_an_unknown_path_is_answered_so_that_the_page_can_read_the_404() -> None:
    assert listed(preflight(LISTED, APP, UNKNOWN), "Access-Control-Allow-Methods") == {"GET", "HEAD", "POST"}


def test_a_preflight_is_answered_with_the_headers_that_the_server_reads() -> None:
    allowed = {name.lower() for name in listed(preflight(LISTED, APP), "Access-Control-Allow-Headers")}
    assert allowed >= {
        *("authorization", "content-type", "x-request-id", "x-request-timeout", "traceparent", "tracestate"),
        *("inference-header-content-length", "content-encoding", "accept"),
    }


@pytest.mark.parametrize("cors", [LISTED, ANY])
def test_credentials_are_never_allowed(cors: CrossOrigin) -> None:
    headers = {name.decode() for name, _ in cors.headers(APP)} | preflight(cors, APP).headers.keys()
    assert "access-control-allow-credentials" not in {name.lower() for name in headers}


@pytest.mark.parametrize("origin", [EVIL, b"null", b""])
def test_a_preflight_of_another_origin_is_refused(origin: bytes) -> None:
    with pytest.raises(Forbidden, match="DEEPSERVE_CORS_ORIGINS"):
        preflight(LISTED, origin)


@pytest.mark.parametrize(
    "request_",
    [
        asks(APP),  # a plain OPTIONS
        asks(None, access_control_request_method="POST"),
        asks(APP, "POST", access_control_request_method="POST"),
        asks(EVIL),
    ],
)
def test_other_requests_are_not_preflights(request_: HttpRequest) -> None:
    assert LISTED.preflight(request_, DIGITS) is None


def test_a_public_page_reaches_a_private_network_only_if_its_origin_is_listed() -> None:
    name = "Access-Control-Allow-Private-Network"
    asked = {"access_control_request_private_network": "true"}
    assert preflight(LISTED, APP, **asked).headers[name] == "true"
    assert name not in preflight(ANY, APP, **asked).headers
    assert name not in preflight(LISTED, APP).headers
