"""Request bodies: read within their limit while they arrive, and taken apart by Content-Type."""

import re
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator
from email.message import Message
from typing import TypeVar

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive

from service.errors import Fault, Invalid, Malformed, TooLarge
from service.tasks.base import MAX_ITEMS

Text = TypeVar("Text", bytes, memoryview)


class ClientGone(Exception):
    """The client hung up before its request was whole; there is nobody to answer."""


async def read_body(receive: Receive, content_length: bytes | None, limit: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: it is, or says that it is, longer than `limit` bytes; no more than that is held.
        ClientGone: the connection ended first.
    """
    if content_length is not None and int(content_length) > limit:
        raise TooLarge(f"The body may have at most {limit:,} bytes.")
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"The body may have at most {limit:,} bytes.")
        chunks.append(chunk)
        if not message.get("more_body", False):
            break
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def without_bom(text: Text) -> Text:
    """Return JSON without a byte order mark in front, which a parser may ignore (RFC 8259, section 8.1)."""
    return text[len(BOM_UTF8) :] if text[: len(BOM_UTF8)] == BOM_UTF8 else text


def media_type(content_type: str) -> str:
    """The type alone, in lower case: `text/html` of `Text/HTML; charset=utf-8`."""
    return content_type.partition(";")[0].strip().lower()


class _InMemory(MultiPartParser):
    """The body is in memory already and bounded: its parts never need a file."""

    spool_max_size = 2**62


async def multipart_files(body: bytes, content_type: str, field: str) -> list[bytes]:
    """The parts named `field` of a multipart body, in order.

    Raises:
        Malformed: it is not what its Content-Type says.
        Invalid: it has other parts, or more than `MAX_ITEMS`.
    """
    boundary = _boundary(content_type)
    if b"--" + boundary + b"--" not in body:
        raise Malformed("The body is not multipart/form-data: its closing boundary is missing.")
    headers = Headers({"content-type": f'multipart/form-data; boundary="{boundary.decode("latin-1")}"'})
    parser = _InMemory(headers, _once(body), max_files=MAX_ITEMS + 1, max_fields=MAX_ITEMS + 1)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many" in error.message:
            raise _too_many(field) from error
        raise Malformed(f"The body is not multipart/form-data: {error.message}") from error
    files: list[bytes] = []
    for name, part in form.multi_items():
        if name != field:
            raise Invalid("The request is not valid.", faults=(Fault((name,), f"only {field!r} is taken here"),))
        if not isinstance(part, UploadFile):
            raise Invalid("The request is not valid.", faults=(Fault((name,), "a file is needed, with its filename"),))
        files.append(part.file.read())
    if len(files) > MAX_ITEMS:
        raise _too_many(field)
    return files


def _too_many(field: str) -> Invalid:
    return Invalid("The request is not valid.", faults=(Fault((field,), f"at most {MAX_ITEMS} items"),))


def _boundary(content_type: str) -> bytes:
    """The boundary alone: other parameters, a charset say, have no say over files."""
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_boundary()
    if boundary is None or not re.fullmatch(r"[\x20-\x7e]{1,70}", boundary) or '"' in boundary:
        raise Malformed("The Content-Type multipart/form-data has no valid boundary.")
    return boundary.encode("ascii")


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body
