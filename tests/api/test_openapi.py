"""What code generators need of the OpenAPI document."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from service.api.models import Catalogue
from service.api.openapi import openapi
from service.api.tasks import TaskEndpoint
from service.api.v2.routes import OpenInference
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
    raise AssertionError("nothing is asked for the document")


TASKS = (DigitsTask, SentimentTask, MammogramTask, FashionTask)
INFERENCE = InferenceService(ModelRegistry(SETTINGS, bind), {})
TASKS = [TaskEndpoint(f"/v1/{each.name}", each, INFERENCE, SETTINGS.max_body_bytes) for each in TASKS]
DOCUMENT = json.loads(openapi(TASKS).body)
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


def test_every_route_is_described_with_its_methods() -> None:
    routes = [*Catalogue(unused).routes, *OpenInference(unused, SETTINGS).routes]
    served = {f"{method} {route.template}" for route in routes for method in route.methods}
    described = {each for each in OPERATIONS if re.search(" /(v2|v1/models)", each)}
    assert described == served - {"GET /v2/"}  # the same as GET /v2


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
