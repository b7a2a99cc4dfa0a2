"""`/v1/models/{name}`: the card of the default version, states and reasons."""

import json
from typing import Any

import pytest
from starlette.types import Message

from service.api.models import Catalogue
from service.api.routing import HttpRequest, Router
from service.context import RequestContext
from service.registry.registry import ModelRegistry
from tests.registry.test_registry import NEWER, OLDER, serving


async def no_body() -> Message:
    return {"type": "http.request"}


async def shown_at(path: str, models: ModelRegistry) -> Any:
    """What the catalogue answers."""
    resource, params = Router(Catalogue(lambda: models).routes).find(path)
    response = await resource.route("GET").handler(HttpRequest("GET", path, b"", {}, no_body, params), RequestContext())
    return json.loads(response.body)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("settings", "expected"), [({}, "2"), ({"canary": NEWER}, "1"), ({"shadow": NEWER}, "1"), ({"shadow": OLDER}, "2")]
)
async def test_the_card_is_that_of_the_default_version(settings: dict[str, Any], expected: str) -> None:
    models = serving(["1", "2"], **settings)
    shown = await shown_at("/v1/models/digits", models)
    assert shown["card"]["version"] == expected
    assert [each["version"] for each in shown["versions"]] == ["1", "2"]


@pytest.mark.anyio
async def test_an_unloaded_model_has_no_card() -> None:
    models = serving(["1", "2"])
    models.unload("digits", ["1", "2"])
    shown = await shown_at("/v1/models/digits", models)
    assert shown["card"] is None
    assert [each["state"] for each in shown["versions"]] == ["UNAVAILABLE"] * 2


@pytest.mark.anyio
async def test_a_model_whose_folder_could_never_be_read_is_shown_with_the_reason() -> None:
    models = serving([])
    models.load("sentiment", [])
    shown = await shown_at("/v1/models/sentiment", models)
    assert (shown["versions"], shown["reason"], shown["card"]) == ([], "its files are missing", None)
