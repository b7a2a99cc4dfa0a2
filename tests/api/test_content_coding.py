import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.content_coding import compress, compressed, inflate
from service.api.messages import HttpResponse
from service.errors import Malformed, TooLarge, UnsupportedMediaType

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


@pytest.mark.parametrize("size", [0, 1023, 1024, 100_000])
def test_a_reply_that_is_worth_it_is_compressed_for_those_who_accept_it(size: int) -> None:
    reply = HttpResponse(bytes(size), "text/plain", 200, {"Vary": "Accept"})
    assert compressed(reply, "") is reply
    assert compressed(reply, "gzip;q=0, br") is reply
    found = compressed(reply, "gzip, deflate;q=0.5")
    if size < 1024:
        assert found is reply
    else:
        assert gzip.decompress(found.body) == reply.body
        assert found.headers == {"Vary": "Accept, Accept-Encoding", "Content-Encoding": "gzip"}
