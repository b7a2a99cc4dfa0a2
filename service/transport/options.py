"""The configuration of the transport: limits, and callables that connect it to the service."""

from collections.abc import Callable
from dataclasses import dataclass

Headers = list[tuple[bytes, bytes]]
"""Names and values, in order."""


class Refusal(Exception):
    """An invalid request, which gets an error response from the transport instead of the application.

    `method` and `path` are those of the request if they were read, otherwise empty.
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
    """A limit that all connections of a process share: bytes of bodies, or connections."""

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
    """Render the error response of a refusal, and count it."""
    overloaded: Callable[[], Exception]
    """Return the exception that `receive` raises when `body_bytes` are used up."""
    is_draining: Callable[[], bool]
    """Return whether each response should be the last on its connection."""
    keep_alive_seconds: float
    """How long a connection may wait for its next request."""
    connections: Budget
    """Limit of open connections; one more gets a 503."""
    body_bytes: Budget
    """Limit of bytes of request bodies whose responses are not complete."""
    single_headers: frozenset[bytes] = frozenset()
    """Lower-case names of headers that the application reads and that a request must not repeat."""
