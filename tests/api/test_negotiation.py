import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.negotiation import preferred_coding, preferred_media_type

PICTURE_OR_JSON = ("image/png", "application/json")
METRICS = ("text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0")
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("*", "image/png"),
        ("image/*", "image/png"),
        ("application/*", "application/json"),
        ("Application/JSON", "application/json"),
        ("application/json;q=0.5, image/png;q=0.9", "image/png"),
        ("image/png;q=0.1, application/json", "application/json"),
        ("image/png;q=0, */*", "application/json"),
        ("image/*;q=0, */*;q=0.1", "application/json"),
        ("*/*, image/png;q=0.5", "application/json"),
        ("image/png;q=0.5, image/*;q=0.9, application/json;q=0.7", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "image/png"),
        ("application/json; charset=utf-8", "application/json"),
        ('text/x; a="b, image/png;q=1", application/json;q=0.1', "application/json"),
        ("application/json ; Q = 0.2 , image/png;q=0.1", "application/json"),
        ("image/png;q=high, application/json;q=0.001", "application/json"),
        ("text/html", None),
        ("image/png;q=0", None),
        ("*/*;q=0", None),
        ("image/png;q=0.000, application/json;q=0", None),
        ("image/png;q=nan", None),
    ],
)
def test_the_most_specific_media_range_gives_the_weight(accept: str, preferred: str | None) -> None:
    assert preferred_media_type(accept, PICTURE_OR_JSON) == preferred


@pytest.mark.parametrize(
    ("accept", "preferred"),
    [
        (PROMETHEUS_2, METRICS[1]),
        (PROMETHEUS_3, METRICS[1]),
        ("application/openmetrics-text", METRICS[1]),
        ("application/openmetrics-text;q=0.1, text/plain", METRICS[0]),
        ("application/openmetrics-text;q=0, text/plain", METRICS[0]),
        ("application/openmetrics-text; version=0.0.1, text/plain;version=0.0.4;q=0.5", METRICS[0]),
        ("application/openmetrics-text; version=abc", None),
        ("*/*", METRICS[0]),
    ],
)
def test_parameters_that_an_offer_has_must_match(accept: str, preferred: str | None) -> None:
    assert preferred_media_type(accept, METRICS) == preferred


@pytest.mark.parametrize(
    ("accept_encoding", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("deflate;q=0.9, gzip;q=0.5", "deflate"),
        ("gzip;q=0, *", None),
        ("gzip;q=0, deflate", "deflate"),
        ("identity;q=0, *", "gzip"),
        ("identity;q=0.5, *;q=0.9", "gzip"),
        ("identity, gzip;q=0.5", None),
        ("*", None),
        ("*;q=0", None),
        ("gzip;q=0", None),
        ("gzip;q=0.0", None),
        ("GZIP", "gzip"),
        ("br", None),
        ("", None),
        ("gzip;q=", None),
        ("gzip;q=1.1.1", None),
        (",,;,=", None),
    ],
)
def test_a_coding_is_chosen_if_it_weighs_more_than_none(accept_encoding: str, coding: str | None) -> None:
    assert preferred_coding(accept_encoding, ("gzip", "deflate")) == coding


@given(st.text(alphabet=st.characters(max_codepoint=255)) | st.text(alphabet='ab/*,;=q."\\0 '))
def test_any_header_is_understood(header: str) -> None:
    assert preferred_media_type(header, PICTURE_OR_JSON) in (*PICTURE_OR_JSON, None)
    assert preferred_coding(header, ("gzip",)) in ("gzip", None)


def test_a_long_header_takes_no_time() -> None:
    for header in ("a/b," * 16_000, "*/*;" * 16_000, '"' * 64_000, ";=" * 32_000):
        assert preferred_media_type(header, PICTURE_OR_JSON) in (*PICTURE_OR_JSON, None)
