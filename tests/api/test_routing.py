"""A path finds its routes and the values of its parameters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.errors import MethodNotAllowed
from service.api.routing import UNKNOWN, HttpResponse, Route, Router, always
from service.errors import NotFound

TEMPLATES = (
    "/",
    "/v1/digits",
    "/v1/models",
    "/v1/models/{name}",
    "/v1/models/{name}/versions/{version}",
    "/v2/models/stats",
    "/v2/models/{name}",
    "/v2/models/{name}/infer",
    "/v2/models/{name}/versions/{version}/infer",
)
HANDLER = always(HttpResponse(b""))
ROUTER = Router(Route("GET", template, HANDLER) for template in TEMPLATES)


@pytest.mark.parametrize(
    ("path", "template", "params"),
    [
        ("/", "/", {}),
        ("/v1/digits", "/v1/digits", {}),
        ("/v1/models/digits", "/v1/models/{name}", {"name": "digits"}),
        ("/v2/models/stats", "/v2/models/stats", {}),
        ("/v2/models/stats/infer", "/v2/models/{name}/infer", {"name": "stats"}),
        ("/v2/models/{name}", "/v2/models/{name}", {"name": "{name}"}),
        (
            "/v2/models/versions/versions/infer/infer",
            "/v2/models/{name}/versions/{version}/infer",
            {"name": "versions", "version": "infer"},
        ),
    ],
)
def test_a_path_finds_its_resource(path: str, template: str, params: dict[str, str]) -> None:
    resource, found = ROUTER.find(path)
    assert (resource.template, found) == (template, params)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "v1/digits",
        "//",
        "/v1/digits/",
        "/v1/models/",
        "/v1/models//versions/1",
        "/v1/models/x/versions/",
        "/v1/x/y",
    ],
)
def test_another_path_is_unknown(path: str) -> None:
    assert ROUTER.find(path) == (UNKNOWN, {})


@given(template=st.sampled_from(TEMPLATES), values=st.lists(st.text(min_size=1), min_size=2, max_size=2))
def test_a_parameter_may_be_any_text_without_a_slash(template: str, values: list[str]) -> None:
    params = {name: value for name, value in zip(("name", "version"), values, strict=True) if f"{{{name}}}" in template}
    resource, found = ROUTER.find(template.format(**params))
    if any("/" in value for value in params.values()):
        assert resource.template != template or found != params
    elif template.format(**params) not in TEMPLATES:
        assert (resource.template, found) == (template, params)


def test_a_resource_has_the_methods_of_its_routes_and_head_with_get() -> None:
    get, post = Route("GET", "/{name}", HANDLER), Route("POST", "/{name}", HANDLER)
    resource, _ = Router([get, post]).find("/x")
    assert set(resource.methods) == {"GET", "HEAD", "POST"}
    assert [resource.route(method) for method in ("GET", "HEAD", "POST")] == [get, get, post]
    with pytest.raises(MethodNotAllowed, match="PUT") as refused:
        resource.route("PUT")
    assert set(refused.value.allow.split(", ")) == {"GET", "HEAD", "POST"}


def test_an_unknown_path_has_no_methods() -> None:
    assert UNKNOWN.methods == ()
    with pytest.raises(NotFound):
        UNKNOWN.route("GET")


def test_a_path_is_for_probes_if_one_of_its_routes_is() -> None:
    router = Router([Route("GET", "/livez", HANDLER, is_probe=True), Route("GET", "/v1/models", HANDLER)])
    assert [router.find(path)[0].is_probe for path in ("/livez", "/v1/models", "/x")] == [True, False, False]
