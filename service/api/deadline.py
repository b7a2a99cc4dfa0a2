"""The deadline of a request: what the client asks for in `X-Request-Timeout`, at most what the server allows."""

import math

from service.errors import Fault, Invalid

HEADER = "X-Request-Timeout"
"""Seconds after which the client no longer waits."""


def timeout_seconds(header: bytes | None, limit: float) -> float:
    """Return how long a request may take, in seconds.

    Args:
        header: `X-Request-Timeout`; None if the request does not have it.
        limit: the most that the server allows.

    Raises:
        Invalid: the header is not a number above 0.
    """
    if header is None:
        return limit
    try:
        seconds = float(header)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        fault = Fault(("header", HEADER), "must be a number of seconds above 0")
        raise Invalid("The request is not valid.", faults=(fault,))
    return min(seconds, limit)
