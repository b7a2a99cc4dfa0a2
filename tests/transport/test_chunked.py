"""Chunked bodies, compared with llhttp: whatever this decoder accepts, llhttp accepts with the same result."""

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.transport.chunked import ChunkedDecoder
from service.transport.options import Refusal

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Llhttp:
    """Decode a body with llhttp."""

    def __init__(self, coded: bytes) -> None:
        self.body, self.complete, self.valid = b"", False, True
        try:
            httptools.HttpRequestParser(self).feed_data(HEAD + coded)
        except httptools.HttpParserError:
            self.valid = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


def decode(*portions: bytes) -> tuple[bytes, bytes, bool]:
    """Return the body, the bytes after it, and whether the body is complete."""
    decoder, body, left = ChunkedDecoder(), b"", b""
    for number, portion in enumerate(portions, 1):
        data, left = decoder.decode(left + portion)
        body += data
        if decoder.complete:
            return body, left + b"".join(portions[number:]), True
    return body, left, False


@pytest.mark.parametrize(
    ("coded", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"A\r\n0123456789\r\n1\r\nx\r\n000\r\n\r\n", b"0123456789x"),
        (b"5;name=value\r\nhello\r\n0;last\r\n\r\n", b"hello"),
        (b'5;a;b="c; \\"d"\r\nhello\r\n0\r\n\r\n', b"hello"),
        (b"5\r\nhello\r\n0\r\nA: b\r\nC: d\r\n\r\n", b"hello"),
    ],
)
def test_chunks_are_joined(coded: bytes, body: bytes) -> None:
    assert decode(coded + b"GET") == (body, b"GET", True)
    assert decode(*(bytes([byte]) for byte in coded)) == (body, b"", True)
    assert Llhttp(coded).body == body


@pytest.mark.parametrize(
    "coded",
    [
        b"many\r\n",
        b"\r\n",
        b"5\nhello\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5 ;a\r\nhello\r\n",
        b"5;a\nb\r\nhello\r\n",
        b"5;\x00\r\nhello\r\n",
        b"5;\r\nhello\r\n",
        b'5;a="b\r\nhello\r\n',
        b"1000000000000000\r\n",
        b"FFFFFFFFFFFFFFFFFF\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n: b\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nA: b\x00\r\n\r\n",
        b"0\r\nA: b\nC: d\r\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\n\n",
    ],
)
def test_invalid_chunks_are_rejected_in_any_portions(coded: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        decode(coded)
    assert refused.value.status == 400
    with pytest.raises(Refusal):
        decode(*(bytes([byte]) for byte in coded))


@pytest.mark.parametrize(
    "coded",
    [
        b"1;" + b"x" * 70_000,
        b"1;" + b"x" * 70_000 + b"\r\n",
        (b"1;" + b"x" * 99 + b"\r\nx\r\n") * 800,
        b"0\r\n" + b"A: b\r\n" * 12_000,
        b"0\r\nA: " + b"b" * 70_000,
    ],
)
def test_extensions_and_trailers_have_a_limit(coded: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        decode(coded)
    assert refused.value.status == 431


pieces = st.sampled_from(
    [
        b"0",
        b"5",
        b"1",
        b"a",
        b"F",
        b"\r\n",
        b"\r",
        b"\n",
        b"hello",
        b"x",
        b";e",
        b"=v",
        b" ",
        b"\t",
        b"A: b",
        b":",
        b"\0",
    ]
)


@given(st.lists(pieces, max_size=14).map(b"".join), st.integers(1, 5))
def test_accepted_chunks_mean_the_same_to_llhttp(coded: bytes, step: int) -> None:
    portions = [coded[at : at + step] for at in range(0, len(coded), step)]
    try:
        body, left, complete = decode(*portions)
    except Refusal:
        return
    if complete:
        reference = Llhttp(coded.removesuffix(left))
        assert (reference.valid, reference.complete, reference.body) == (True, True, body)
    else:
        assert not Llhttp(coded).complete


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.integers(1, 20))
def test_every_valid_body_is_decoded_in_any_portions(chunks: list[bytes], step: int) -> None:
    coded = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    portions = [coded[at : at + step] for at in range(0, len(coded), step)]
    assert decode(*portions) == (b"".join(chunks), b"", True)
