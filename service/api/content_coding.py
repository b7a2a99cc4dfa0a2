"""Content codings: decompress request bodies within their limit, compress responses for clients that accept it."""

import zlib

from service.api.messages import HttpResponse
from service.api.negotiation import preferred_coding
from service.errors import Malformed, TooLarge, UnsupportedMediaType

_WORTHWHILE = 1024
"""Bytes below which a response stays as it is: it fits in one packet either way."""

_FORMATS = {"gzip": 31, "deflate": 15}
"""zlib's `wbits` by coding, the preferred coding first."""


def inflate(body: bytes, coding: str, limit: int) -> bytes:
    """Return the decoded body of a request.

    Args:
        body: as received.
        coding: the header Content-Encoding, in lower case; empty for none.
        limit: maximum number of bytes of the result.

    Raises:
        UnsupportedMediaType: the coding is not supported.
        Malformed: the body is not in that coding.
        TooLarge: the result has more than `limit` bytes; no more than that is held in memory.
    """
    if coding in ("", "identity"):
        return body
    if (wbits := _FORMATS.get(coding)) is None:
        headers = {"Accept-Encoding": ", ".join(_FORMATS)}
        raise UnsupportedMediaType(
            f"The Content-Encoding {coding} is not taken; gzip and deflate are.", headers=headers
        )
    stream = zlib.decompressobj(wbits)
    try:
        inflated = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise Malformed(f"The body is not {coding}: {error}.") from error
    if len(inflated) > limit:
        raise TooLarge(f"The body may have at most {limit:,} bytes once it is inflated.")
    if not stream.eof or stream.unused_data:
        raise Malformed(
            f"The body is not {coding}: {'it goes on after its end' if stream.eof else 'its end is missing'}."
        )
    return inflated


def compressed(reply: HttpResponse, accept_encoding: str) -> HttpResponse:
    """Return a reply in the coding that the client prefers; unchanged if that is none, or if the reply is short."""
    if not accept_encoding or len(reply.body) < _WORTHWHILE:
        return reply
    if (coding := preferred_coding(accept_encoding, tuple(_FORMATS))) is None:
        return reply
    headers = {**reply.headers, "Content-Encoding": coding}
    headers["Vary"] = ", ".join(filter(None, (headers.get("Vary"), "Accept-Encoding")))
    return HttpResponse(compress(reply.body, coding), reply.media_type, reply.status, headers)


def compress(body: bytes, coding: str) -> bytes:
    """Return the body in `coding`, gzip or deflate; fast rather than small."""
    stream = zlib.compressobj(1, wbits=_FORMATS[coding])
    return stream.compress(body) + stream.flush()
