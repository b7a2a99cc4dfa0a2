"""A path finds its route and says what the route's template leaves open."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.messages import Route
from service.api.routing import Router

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
ROUTER = Router(Route(template, {}) for template in TEMPLATES)


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
def test_a_path_finds_its_route(path: str, template: str, params: dict[str, str]) -> None:
    found = ROUTER.find(path)
    assert found is not None
    assert (found[0].template, found[1]) == (template, params)


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
def test_what_no_template_has_finds_none(path: str) -> None:
    assert ROUTER.find(path) is None


@given(template=st.sampled_from(TEMPLATES), values=st.lists(st.text(min_size=1), min_size=2, max_size=2))
def test_any_text_may_stand_for_a_parameter_but_a_slash(template: str, values: list[str]) -> None:
    params = {name: value for name, value in zip(("name", "version"), values, strict=True) if f"{{{name}}}" in template}
    found = ROUTER.find(template.format(**params))
    if any("/" in value for value in params.values()):
        assert found is None or found[0].template != template or found[1] != params
    elif template.format(**params) not in TEMPLATES:
        assert found is not None
        assert (found[0].template, found[1]) == (template, params)
