"""The OpenAPI document describes every route as it is, in a form that code generators can use."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from service.api.app import all_routes
from service.api.errors import UnsupportedMediaType
from service.api.health import Health
from service.api.openapi import openapi
from service.api.problem import status_of
from service.api.routing import JSON, HttpRequest, HttpResponse, Route, Router, always
from service.api.tasks import TaskEndpoint
from service.context import RequestContext
from service.errors import Unavailable
from service.inference.binding import bind
from service.inference.service import InferenceService
from service.registry.registry import ModelRegistry
from service.settings import Settings
from service.tasks.base import MAX_ITEMS
from service.tasks.digits import DigitsTask
from service.tasks.fashion import MAX_SEED, FashionTask
from service.tasks.mammogram import MammogramTask
from service.tasks.sentiment import SentimentTask

SETTINGS = Settings()


def unused() -> Any:
    raise AssertionError("the document needs no models")


INFERENCE = InferenceService(ModelRegistry(SETTINGS, bind), {})
TASKS = [
    TaskEndpoint(f"/v1/{task.name}", task, INFERENCE, SETTINGS.max_body_bytes)
    for task in (DigitsTask, SentimentTask, MammogramTask, FashionTask)
]
ROUTES = all_routes(TASKS, unused, SETTINGS, Health(unused))
DOCUMENT = openapi(ROUTES)
SCHEMAS = DOCUMENT["components"]["schemas"]
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}

every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


def parts(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a document, at any depth."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from parts(each)
    elif isinstance(value, list):
        for each in value:
            yield from parts(each)


def test_every_route_is_described_but_aliases() -> None:
    served = {f"{route.method} {route.template}" for route in ROUTES}
    assert served - OPERATIONS.keys() == {"GET /v2/"}, "an alias of GET /v2"
    assert OPERATIONS.keys() <= served


@pytest.mark.anyio
async def test_the_server_returns_the_document_of_all_its_routes() -> None:
    router = Router(ROUTES)
    resource, _ = router.find("/docs.json")
    request = HttpRequest("GET", "/docs.json", b"", {}, unused)
    response = await resource.route("GET").handler(request, RequestContext())
    assert json.loads(response.body) == DOCUMENT


def test_an_operation_follows_from_its_route() -> None:
    handler = always(HttpResponse(b""))
    route = Route(
        "POST",
        "/v1/things/{name}",
        handler,
        "make_thing",
        "Make a thing.",
        is_rate_limited=True,
        request={JSON: {"type": "object"}, "text/csv": {"type": "string"}},
        response={"text/csv": {"type": "string"}},
        errors=(UnsupportedMediaType, Unavailable),
    )
    hidden = Route("GET", "/hidden", handler)
    probe = Route("GET", "/probe", handler, "probe", "Probe.", access="public", response={JSON: {}})
    paths = openapi([route, hidden, probe])["paths"]
    assert paths.keys() == {"/v1/things/{name}", "/probe"}
    operation = paths["/v1/things/{name}"]["post"]
    assert (operation["operationId"], operation["summary"], operation["tags"]) == (
        *("make_thing", "Make a thing."),
        ["tasks"],
    )
    assert operation["requestBody"]["content"].keys() == {JSON, "text/csv"}
    assert operation["responses"]["200"]["content"] == {"text/csv": {"schema": {"type": "string"}}}
    every = {"200", "400", "401", "405", "413", "415", "422", "429", "503", "504", "default"}
    assert operation["responses"].keys() == every
    assert operation["responses"]["503"]["headers"].keys() == {"X-Request-ID", "Retry-After"}
    assert paths["/probe"]["get"]["responses"].keys() == {"200", "405", "default"}
    assert paths["/probe"]["get"]["security"] == []


def test_every_error_that_a_route_names_is_described() -> None:
    for route in ROUTES:
        if route.operation_id:
            responses = OPERATIONS[f"{route.method} {route.template}"]["responses"]
            assert {str(status_of(error)) for error in route.errors} <= responses.keys()


def test_operations_have_names_of_their_own_that_are_identifiers() -> None:
    names = Counter(operation["operationId"] for operation in OPERATIONS.values())
    assert max(names.values()) == 1
    assert all(re.fullmatch("[a-z][a-z0-9_]*", name) for name in names)


@every_operation
def test_every_response_and_body_has_a_schema(operation: dict[str, Any]) -> None:
    assert "default" in operation["responses"]
    for response in operation["responses"].values():
        assert response["content"]
        assert all(media["schema"] for media in response["content"].values())
    for media in operation.get("requestBody", {"content": {}})["content"].values():
        assert media["schema"]


@every_operation
def test_errors_are_described_as_their_path_has_them(operation: dict[str, Any]) -> None:
    [kind] = {
        (media_type, media["schema"]["$ref"].rpartition("/")[2])
        for status, response in operation["responses"].items()
        if status != "200"
        for media_type, media in response["content"].items()
    }
    assert kind == (
        ("application/json", "V2Error") if operation["tags"] == ["v2"] else ("application/problem+json", "Problem")
    )


@every_operation
def test_the_parameters_of_a_path_are_described(operation: dict[str, Any]) -> None:
    [path] = [key for key, value in OPERATIONS.items() if value is operation]
    described = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
    assert described == re.findall(r"\{(\w+)\}", path)
    assert all(each["required"] for each in operation["parameters"] if each["in"] == "path")


def test_every_reference_leads_somewhere() -> None:
    references = {part["$ref"] for part in parts(DOCUMENT) if isinstance(part.get("$ref"), str)}
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= SCHEMAS.keys()


def test_no_enum_mixes_types_and_every_one_has_one() -> None:
    enums = [part for part in parts(DOCUMENT) if isinstance(part.get("enum"), list)]
    assert enums
    for enum in enums:
        assert {type(value) for value in enum["enum"]} == {str}
        assert enum.get("type", "string") == "string"


def test_integers_say_how_many_bits_they_take() -> None:
    for part in parts(DOCUMENT):
        if part.get("type") == "integer":
            fits = part.get("maximum", 2**63) < 2**31 and part.get("minimum", -(2**63)) >= -(2**31)
            assert part["format"] == ("int32" if fits else "int64")


def test_requests_have_the_bounds_that_the_server_has() -> None:
    for schema, field in (("DigitsRequest", "images"), ("SentimentRequest", "reviews"), ("MammogramRequest", "masses")):
        array = SCHEMAS[schema]["properties"][field]
        assert (array["minItems"], array["maxItems"]) == (1, MAX_ITEMS)
    review = SCHEMAS["SentimentRequest"]["properties"]["reviews"]["items"]
    assert (review["minLength"], review["maxLength"]) == (1, 20_000)
    order = SCHEMAS["FashionRequest"]["properties"]
    assert (order["count"]["minimum"], order["count"]["maximum"]) == (1, MAX_ITEMS)
    assert order["seed"]["anyOf"][0]["maximum"] == MAX_SEED
    parts_of_form = OPERATIONS["POST /v1/digits"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert parts_of_form["properties"]["images"]["maxItems"] == MAX_ITEMS


def test_pictures_are_binary_and_base64_is_text() -> None:
    digits, fashion = OPERATIONS["POST /v1/digits"], OPERATIONS["POST /v1/fashion"]
    assert digits["requestBody"]["content"]["image/*"]["schema"] == {"type": "string", "format": "binary"}
    assert fashion["responses"]["200"]["content"]["image/png"]["schema"] == {"type": "string", "format": "binary"}
    for base64 in (
        SCHEMAS["DigitsRequest"]["properties"]["images"]["items"],
        SCHEMAS["Clothing"]["properties"]["image"],
    ):
        assert (base64["type"], base64["contentEncoding"]) == ("string", "base64")
        assert "format" not in base64


def test_only_an_admin_key_opens_the_changes_and_no_key_the_probes() -> None:
    security = {key: operation.get("security", DOCUMENT["security"]) for key, operation in OPERATIONS.items()}
    admin = {key for key, value in security.items() if value == [{"admin": []}]}
    assert admin == {f"POST /v2/repository/models/{{name}}/{change}" for change in ("load", "unload")}
    public = {key for key, value in security.items() if value == []}
    assert {"GET /livez", "GET /metrics", "GET /v2/health/ready", "GET /docs.json"} < public
    assert not {key for key in public if "models" in key}
