import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Malformed, TooLarge, UnsupportedMediaType
from service.http.v2.encodings import compress, inflate, preferred_coding

LIMIT = 100_000


@given(st.binary(max_size=5000), st.sampled_from(["gzip", "deflate"]))
def test_what_is_compressed_comes_back(body: bytes, coding: str) -> None:
    assert inflate(compress(body, coding), coding, LIMIT) == body
    assert inflate({"gzip": gzip, "deflate": zlib}[coding].compress(body), coding, LIMIT) == body


@pytest.mark.parametrize("coding", ["", "identity"])
def test_a_plain_body_is_left_alone(coding: str) -> None:
    assert inflate(b"plain", coding, LIMIT) == b"plain"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_the_limit_holds_after_inflation(coding: str) -> None:
    assert len(inflate(compress(bytes(LIMIT), coding), coding, LIMIT)) == LIMIT
    with pytest.raises(TooLarge):
        inflate(compress(bytes(LIMIT + 1), coding), coding, LIMIT)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@given(data=st.data())
def test_a_broken_stream_is_refused(coding: str, data: st.DataObject) -> None:
    whole = compress(bytes(range(256)), coding)
    for broken in (whole[: data.draw(st.integers(0, len(whole) - 1))], whole + b"x", whole + whole, b"no" + whole):
        with pytest.raises(Malformed):
            inflate(broken, coding, LIMIT)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "x"])
def test_other_codings_are_refused_with_those_that_are_taken(coding: str) -> None:
    with pytest.raises(UnsupportedMediaType) as refusal:
        inflate(b"", coding, LIMIT)
    assert refusal.value.headers["Accept-Encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("deflate;q=0.9, gzip;q=0.5", "deflate"),
        ("identity, gzip;q=0.5", None),
        ("gzip;q=0", None),
        ("GZIP", "gzip"),
        ("br", None),
        ("", None),
        ("gzip;q=", None),
        ("gzip;q=1.1.1", None),
        (",,;,=", None),
    ],
)
def test_the_client_says_what_it_likes_best(accepted: str, coding: str | None) -> None:
    assert preferred_coding(accepted) == coding
