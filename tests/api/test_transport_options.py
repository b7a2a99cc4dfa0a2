"""The transport has the limits of the settings, and its refusals have the form of all other errors."""

import json

import pytest

from service.api.health import Health
from service.api.routing import SINGLE_HEADERS
from service.api.transport_options import refuse, transport_options
from service.errors import Unavailable
from service.registry.readiness import Readiness
from service.settings import Settings
from service.transport.options import Refusal


def readiness() -> Readiness:
    raise AssertionError("the transport does not ask for it")


def test_the_limits_are_those_of_the_settings() -> None:
    health = Health(readiness)
    settings = Settings(max_connections=7, max_body_bytes=2000, max_body_bytes_in_flight=3000, keep_alive_seconds=9)
    options = transport_options(settings, health)
    assert (options.connections.limit, options.body_bytes.limit, options.keep_alive_seconds) == (7, 3000, 9)
    assert options.single_headers == SINGLE_HEADERS
    assert isinstance(options.overloaded(), Unavailable)
    assert not options.is_draining()
    health.is_draining = True
    assert options.is_draining()


@pytest.mark.parametrize(
    ("status", "title", "headers"),
    [
        (400, "Bad Request", {}),
        (431, "Request Header Fields Too Large", {}),
        (505, "HTTP Version Not Supported", {}),
        (500, "Internal Server Error", {}),
        (503, "Service Unavailable", {b"retry-after": b"1"}),
    ],
)
@pytest.mark.parametrize("path", ["", "/v1/digits", "/v2"])
def test_what_the_transport_refuses_gets_the_same_form(
    path: str, status: int, title: str, headers: dict[bytes, bytes]
) -> None:
    refusal = Refusal(status, "why")
    refusal.path = path
    response = refuse(refusal)
    found = dict(response.headers)
    request_id = found.pop(b"x-request-id").decode()
    assert len(request_id) == 32
    media_type = found.pop(b"content-type")
    assert (response.status, found) == (status, headers)
    content = json.loads(response.body)
    if path == "/v2":
        assert (media_type, content) == (b"application/json", {"error": "why"})
    else:
        assert media_type == b"application/problem+json"
        assert (content["title"], content["detail"], content["request_id"]) == (title, "why", request_id)
