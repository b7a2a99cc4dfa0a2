"""Bodies are read within their limits, and content codings and multipart are parsed or refused."""

import gzip
import zlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from starlette.types import Message

from service.api.body import compress, compressed, decompress, media_type, multipart_files, read_body
from service.api.errors import UnsupportedMediaType
from service.api.routing import HttpRequest, HttpResponse
from service.errors import Invalid, Malformed, TooLarge
from service.tasks.base import MAX_ITEMS

LIMIT = 100_000


def request_of(chunks: Sequence[bytes | None], headers: dict[bytes, bytes] | None = None) -> HttpRequest:
    """A request whose body comes in chunks; None stands for a client that disconnects."""
    messages = iter(chunks)
    left = len(chunks)

    async def receive() -> Message:
        nonlocal left
        chunk, left = next(messages), left - 1
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": left > 0}

    return HttpRequest("POST", "/", b"", headers or {}, receive)


@pytest.mark.anyio
@pytest.mark.parametrize("chunks", [[b""], [b"abcd"], [b"ab", b"", b"cd"], [b"a", b"b", b"c", b"d"]])
async def test_a_body_is_read_whole(chunks: list[bytes]) -> None:
    assert await read_body(request_of(chunks), 4) == b"".join(chunks)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("chunks", "headers"),
    [([b"abcde"], {}), ([b"abc", b"de", b"never read"], {}), ([], {b"content-length": b"5"})],
)
async def test_a_body_over_the_limit_is_refused_as_soon_as_that_is_known(
    chunks: list[bytes], headers: dict[bytes, bytes]
) -> None:
    with pytest.raises(TooLarge, match="at most 4 bytes"):
        await read_body(request_of(chunks, headers), 4)


@pytest.mark.anyio
async def test_a_client_that_disconnects_ends_the_reading() -> None:
    with pytest.raises(ClientDisconnect):
        await read_body(request_of([b"a", None]), 4)


@pytest.mark.parametrize(
    ("content_type", "expected"), [("Text/HTML; charset=utf-8", "text/html"), (" image/png ", "image/png"), ("", "")]
)
def test_the_media_type_is_that_of_the_content_type_in_lower_case(content_type: str, expected: str) -> None:
    assert media_type(content_type) == expected


@given(st.binary(max_size=5000), st.sampled_from(["gzip", "deflate"]))
def test_compression_is_reversible(body: bytes, coding: str) -> None:
    assert decompress(compress(body, coding), coding, LIMIT) == body
    assert decompress({"gzip": gzip, "deflate": zlib}[coding].compress(body), coding, LIMIT) == body


@pytest.mark.parametrize("coding", ["", "identity"])
def test_a_body_without_a_coding_is_unchanged(coding: str) -> None:
    assert decompress(b"plain", coding, LIMIT) == b"plain"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_the_limit_holds_for_the_decompressed_body(coding: str) -> None:
    assert len(decompress(compress(bytes(LIMIT), coding), coding, LIMIT)) == LIMIT
    with pytest.raises(TooLarge):
        decompress(compress(bytes(LIMIT + 1), coding), coding, LIMIT)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@given(data=st.data())
def test_a_broken_stream_is_refused(coding: str, data: st.DataObject) -> None:
    whole = compress(bytes(range(256)), coding)
    for broken in (whole[: data.draw(st.integers(0, len(whole) - 1))], whole + b"x", whole + whole, b"no" + whole):
        with pytest.raises(Malformed):
            decompress(broken, coding, LIMIT)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "x"])
def test_other_codings_are_refused_with_the_supported_ones(coding: str) -> None:
    with pytest.raises(UnsupportedMediaType) as refused:
        decompress(b"", coding, LIMIT)
    assert refused.value.accept_encoding == "gzip, deflate"


@pytest.mark.parametrize("size", [0, 1023, 1024, 100_000])
def test_a_long_response_is_compressed_for_clients_that_accept_it(size: int) -> None:
    response = HttpResponse(bytes(size), "text/plain", 200, {"Vary": "Accept"})
    assert compressed(response, "") is response
    assert compressed(response, "gzip;q=0, br") is response
    found = compressed(response, "gzip, deflate;q=0.5")
    if size < 1024:
        assert found is response
    else:
        assert gzip.decompress(found.body) == response.body
        assert found.headers == {"Vary": "Accept, Accept-Encoding", "Content-Encoding": "gzip"}


FORM = "multipart/form-data; boundary=B"


def form(*parts: tuple[str, bytes], filename: str | None = "f") -> bytes:
    """A multipart body of these parts, whose boundary is `B`."""
    suffix = "" if filename is None else f'; filename="{filename}"'
    lines = [
        f'--B\r\nContent-Disposition: form-data; name="{name}"{suffix}\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in parts
    ]
    return b"".join([*lines, b"--B--\r\n"])


@pytest.mark.anyio
async def test_files_come_in_order_whatever_bytes_they_have() -> None:
    files = [b"", b"\r\n", b"--B", bytes(range(256)), b"x" * 3_000_000]
    assert await multipart_files(form(*(("images", each) for each in files)), FORM, "images") == files
    body = b"\r\n" + form(("images", b"1"))
    assert await multipart_files(body, 'multipart/form-data; charset=utf-8; boundary="B"', "images") == [b"1"]


@pytest.mark.anyio
@pytest.mark.parametrize("count", [MAX_ITEMS, MAX_ITEMS + 1, MAX_ITEMS + 2, 50_000])
@pytest.mark.parametrize("filename", ["f", None])
async def test_at_most_so_many_files(count: int, filename: str | None) -> None:
    body = form(*[("images", b"x")] * count, filename=filename)
    if count == MAX_ITEMS and filename:
        assert len(await multipart_files(body, FORM, "images")) == count
    else:
        with pytest.raises(Invalid) as refused:
            await multipart_files(body, FORM, "images")
        assert (f"at most {MAX_ITEMS}" in refused.value.faults[0].msg) == (count > MAX_ITEMS + 1 or bool(filename))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (form(("other", b"x")), "must be named 'images'"),
        (form(("images", b"x"), filename=None), "must be a file, with a filename"),
    ],
)
async def test_other_parts_are_refused(body: bytes, message: str) -> None:
    with pytest.raises(Invalid) as refused:
        await multipart_files(body, FORM, "images")
    assert refused.value.faults[0].msg == message


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", FORM),
        (b"nonsense", FORM),
        (form(("images", b"x"))[:-5], FORM),
        (b"--B\r\nno header\r\n\r\nx\r\n--B--\r\n", FORM),
        (form(("images", b"x")), "multipart/form-data"),
        (form(("images", b"x")), "multipart/form-data; boundary="),
        (form(("images", b"x")), "multipart/form-data; boundary=" + 71 * "B"),
    ],
)
async def test_a_broken_form_is_malformed(body: bytes, content_type: str) -> None:
    with pytest.raises(Malformed):
        await multipart_files(body, content_type, "images")
