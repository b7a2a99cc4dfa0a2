"""What the service hands to its transport: limits, and callables in place of knowledge."""

from collections.abc import Callable
from dataclasses import dataclass

Headers = list[tuple[bytes, bytes]]
"""Names and values, in order."""


class Refusal(Exception):
    """Bytes that get an error response from the transport; no application sees them.

    `method` and `path` are those of the request as far as they were read, else empty.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.method = ""
        self.path = ""


@dataclass(frozen=True, slots=True)
class Response:
    """A rendered error response; the transport adds `Content-Length` and `Connection`."""

    status: int
    headers: Headers
    body: bytes


class Budget:
    """A number of units that all connections of a process share: bytes of bodies, or connections."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, amount: int) -> bool:
        """Take `amount` units and return True, or return False if fewer are left."""
        if self.used + amount > self.limit:
            return False
        self.used += amount
        return True

    def give_back(self, amount: int) -> None:
        """Give back units that were taken."""
        self.used -= amount


@dataclass(frozen=True, slots=True)
class Options:
    """The configuration of all connections of a process."""

    refuse: Callable[[Refusal], Response]
    """Renders a refusal, and counts it."""
    overloaded: Callable[[], Exception]
    """Makes what `receive` raises once `body_bytes` are used up."""
    is_draining: Callable[[], bool]
    """Whether each response shall be the last on its connection."""
    keep_alive_seconds: float
    """How long a connection may wait for its next request."""
    connections: Budget
    """Connections at once; one more gets a 503."""
    body_bytes: Budget
    """Bytes of request bodies that have arrived and whose responses are not complete."""
    single_headers: frozenset[bytes] = frozenset()
    """Lower-case names of headers that the application reads and that a request must not repeat."""
