import base64
import json
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.tasks.base import Request
from service.tasks.base64_data import Base64Data


def wrapped(text: str, end: str) -> str:
    """Wrap in lines of 76 characters, as in MIME."""
    return end.join(textwrap.wrap(text, 76)) + end


WAYS = {
    "standard": lambda data: base64.b64encode(data).decode(),
    "URL-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "without padding": lambda data: base64.b64encode(data).decode().rstrip("="),
    "with half of the padding": lambda data: base64.b64encode(data).decode().replace("==", "="),
    "URL-safe without padding": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "in lines": lambda data: base64.encodebytes(data).decode(),
    "in lines with CR": lambda data: wrapped(base64.b64encode(data).decode(), "\r\n"),
    "in indented lines": lambda data: wrapped(base64.b64encode(data).decode(), "\n\t  "),
    "data URI": lambda data: "data:image/png;base64," + base64.b64encode(data).decode(),
    "data URI in capitals": lambda data: "DATA:Image/PNG;BASE64," + base64.b64encode(data).decode(),
    "data URI with parameters": lambda data: (
        'data:image/svg+xml;charset=utf-8;name="a.b";base64,' + base64.urlsafe_b64encode(data).decode()
    ),
    "data URI without a type": lambda data: "data:;base64," + base64.b64encode(data).decode().rstrip("="),
    "data URI in lines": lambda data: " data:image/png;base64,\r\n" + base64.encodebytes(data).decode(),
    "data URI with escapes": lambda data: (
        "data:image/png;base64," + base64.b64encode(data).decode().replace("+", "%2B").replace("=", "%3d")
    ),
}


class Message(Request):
    data: list[Base64Data]


def read(*texts: str) -> list[bytes]:
    return Message.model_validate_json(json.dumps({"data": texts})).data


@pytest.mark.parametrize("way", WAYS)
@given(data=st.binary(max_size=300))
def test_base64_is_decoded_in_all_its_forms(way: str, data: bytes) -> None:
    assert read(WAYS[way](data)) == [data]


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AAAAA",
        "AA=A",
        "AA===",
        "AAA==",
        "AAAA=",
        "=",
        "====",
        "AA==AAAA",
        "A*AA",
        "A.AA",
        "\u00e9AAA",
        "AAA\u00a0A",
        "AAA\x00",
        "AAA\u0661",
        "http://127.0.0.1/seven.png",
        "data:image/png,AAAA",
        "data:image/png;base64",
        "data:image/png;base64;AAAA",
        "data:image/png;base64,A",
        "data:image/png;base64,data:image/png;base64,AAAA",
        "AAAA%3D",
    ],
)
def test_other_text_is_rejected(text: str) -> None:
    with pytest.raises(ValidationError, match="base64"):
        read(text)


def test_a_fault_names_its_item() -> None:
    sent = json.dumps({"data": ["AA==", "A", 3, None, ["AAAA"], "data:,A", ""]})
    with pytest.raises(ValidationError) as refusal:
        Message.model_validate_json(sent)
    assert [fault["loc"] for fault in refusal.value.errors()] == [("data", item) for item in (1, 2, 3, 4, 5)]


def test_a_long_invalid_text_is_rejected_fast() -> None:
    for text in ("data:" + ";base64" * 1_000_000, "A" + "=" * 5_000_000, " " * 5_000_000 + "A", "data:" * 1_000_000):
        with pytest.raises(ValidationError, match="base64"):
            read(text)
