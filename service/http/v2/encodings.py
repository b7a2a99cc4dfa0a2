"""Content codings: bodies inflated within their limit, answers compressed for those who ask for it."""

import re
import zlib

from service.errors import Malformed, TooLarge, UnsupportedMediaType

WORTHWHILE = 1024
"""Bytes below which an answer stays as it is: it is one packet either way."""

_FORMATS = {"gzip": 31, "deflate": 15}
"""zlib's `wbits`, by the name of the coding, the preferred one first."""

_ACCEPTED = re.compile(r"\s*([\w*-]+)\s*(?:;\s*q=([0-9.]+)\s*)?")


def inflate(body: bytes, coding: str, limit: int) -> bytes:
    """The body of a request, whatever its Content-Encoding.

    Args:
        body: as it came.
        coding: the header, in lower case.
        limit: most bytes of the result.

    Raises:
        UnsupportedMediaType: there is no such coding here.
        Malformed: the body is not in that coding.
        TooLarge: it has more than `limit` bytes; no more than that is held.
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


def preferred_coding(accept_encoding: str) -> str | None:
    """What of gzip and deflate an Accept-Encoding weighs most, more than `identity`; None for neither."""
    weights: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        if match := _ACCEPTED.fullmatch(part):
            weights[match[1]] = _weight(match[2])
    best = max(_FORMATS, key=lambda coding: weights.get(coding, 0))
    return best if weights.get(best, 0) > weights.get("identity", 0) else None


def compress(body: bytes, coding: str) -> bytes:
    """The body in `coding`, gzip or deflate; quickly rather than as small as can be."""
    stream = zlib.compressobj(1, wbits=_FORMATS[coding])
    return stream.compress(body) + stream.flush()


def _weight(written: str | None) -> float:
    try:
        return 1 if written is None else float(written)
    except ValueError:
        return 0
