"""Bodies: read request bodies within their limit, decompress and parse them; compress response bodies."""

import re
import zlib
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator
from email.message import Message
from typing import TypeVar

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from service.api.errors import UnsupportedMediaType
from service.api.negotiation import preferred_coding
from service.api.routing import HttpRequest, HttpResponse
from service.errors import Fault, Invalid, Malformed, TooLarge
from service.tasks.base import MAX_ITEMS

MIN_COMPRESSED_BYTES = 1024
"""A shorter response is not compressed: it fits into one packet either way."""

_WBITS = {"gzip": 31, "deflate": 15}
"""The parameter of zlib, by content coding; the preferred coding first."""

Text = TypeVar("Text", bytes, memoryview)


async def read_body(request: HttpRequest, limit: int) -> bytes:
    """Return the whole body of a request.

    Raises:
        TooLarge: the body, or its Content-Length, has more than `limit` bytes. No more than that is held in memory.
        ClientDisconnect: the client closed the connection before the body was complete.
    """
    content_length = request.headers.get(b"content-length")
    if content_length is not None and int(content_length) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body may have at most {limit:,} bytes.")


def decompress(body: bytes, coding: str, limit: int) -> bytes:
    """Return the body of a request without its content coding.

    Args:
        body: as received.
        coding: the header Content-Encoding, in lower case; empty for none.
        limit: the most bytes that the result may have.

    Raises:
        UnsupportedMediaType: the coding is not supported.
        Malformed: the body is not in that coding.
        TooLarge: the result has more than `limit` bytes. No more than that is held in memory.
    """
    if coding in ("", "identity"):
        return body
    if (wbits := _WBITS.get(coding)) is None:
        raise UnsupportedMediaType(
            f"The Content-Encoding {coding} is not supported; gzip and deflate are.", accept_encoding=", ".join(_WBITS)
        )
    stream = zlib.decompressobj(wbits)
    try:
        decompressed = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise Malformed(f"The body is not {coding}: {error}.") from error
    if len(decompressed) > limit:
        raise TooLarge(f"The decompressed body may have at most {limit:,} bytes.")
    if not stream.eof:
        raise Malformed(f"The body is not {coding}: its end is missing.")
    if stream.unused_data:
        raise Malformed(f"The body is not {coding}: it continues after its end.")
    return decompressed


def compressed(response: HttpResponse, accept_encoding: str) -> HttpResponse:
    """Return a response in the content coding that the client prefers; unchanged if that is none, or if it is short."""
    if not accept_encoding or len(response.body) < MIN_COMPRESSED_BYTES:
        return response
    if (coding := preferred_coding(accept_encoding, tuple(_WBITS))) is None:
        return response
    vary = ", ".join(filter(None, (response.headers.get("Vary"), "Accept-Encoding")))
    headers = {**response.headers, "Content-Encoding": coding, "Vary": vary}
    return HttpResponse(compress(response.body, coding), response.media_type, response.status, headers)


def compress(body: bytes, coding: str) -> bytes:
    """Return the body in a content coding, gzip or deflate; fast rather than small."""
    stream = zlib.compressobj(1, wbits=_WBITS[coding])
    return stream.compress(body) + stream.flush()


def without_bom(text: Text) -> Text:
    """Return JSON without a byte order mark in front, which a parser may ignore (RFC 8259 section 8.1)."""
    return text[len(BOM_UTF8) :] if text[: len(BOM_UTF8)] == BOM_UTF8 else text


def media_type(content_type: str) -> str:
    """Return the media type of a Content-Type in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


class _InMemoryParser(MultiPartParser):
    """Keeps all parts in memory: the body is there already, and is bounded."""

    spool_max_size = 2**62


async def multipart_files(body: bytes, content_type: str, field: str) -> list[bytes]:
    """Return the files in the parts named `field` of a multipart body, in order.

    Raises:
        Malformed: the body is not what its Content-Type says.
        Invalid: it has other parts, or more than `MAX_ITEMS`.
    """
    boundary = _boundary(content_type)
    if b"--" + boundary + b"--" not in body:
        raise Malformed("The body is not multipart/form-data: its closing boundary is missing.")
    if body.count(b"\r\n--" + boundary) > MAX_ITEMS + 1:  # one a part, and one before the first
        raise _too_many(field)
    headers = Headers({"content-type": f'multipart/form-data; boundary="{boundary.decode("ascii")}"'})
    try:
        form = await _InMemoryParser(headers, _once(body)).parse()
    except MultiPartException as error:
        raise Malformed(f"The body is not multipart/form-data: {error.message}") from error
    try:
        files = [_content(part, name, field) for name, part in form.multi_items()]
    finally:
        await form.close()
    if len(files) > MAX_ITEMS:
        raise _too_many(field)
    return files


def _content(part: UploadFile | str, name: str, field: str) -> bytes:
    """Return the content of a part of a form, which must be a file of this field."""
    if name != field:
        raise Invalid("The request is not valid.", faults=(Fault((name,), f"must be named {field!r}"),))
    if not isinstance(part, UploadFile):
        raise Invalid("The request is not valid.", faults=(Fault((name,), "must be a file, with a filename"),))
    return part.file.read()


def _too_many(field: str) -> Invalid:
    return Invalid("The request is not valid.", faults=(Fault((field,), f"at most {MAX_ITEMS} items"),))


def _boundary(content_type: str) -> bytes:
    """Return the boundary of a Content-Type, ignoring its other parameters."""
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_boundary()
    if boundary is None or not re.fullmatch(r"[\x20-\x7e]{1,70}", boundary) or '"' in boundary:
        raise Malformed("The Content-Type multipart/form-data has no valid boundary.")
    return boundary.encode("ascii")


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body
