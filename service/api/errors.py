"""The errors that only HTTP has."""

from service.errors import ClientError


class Forbidden(ClientError):
    """The server refuses the request, whatever key it carries."""


class MethodNotAllowed(ClientError):
    """The path does not have this method."""

    def __init__(self, method: str, allow: str) -> None:
        """Create an error; `allow` lists the methods that the path has, separated by commas."""
        super().__init__(f"{method} is not allowed here.")
        self.allow = allow


class UnsupportedMediaType(ClientError):
    """The endpoint does not take this Content-Type or Content-Encoding (RFC 9110 section 15.5.16)."""

    def __init__(self, detail: str, *, accept: str = "", accept_encoding: str = "") -> None:
        """Create an error; `accept` lists the media types that the endpoint takes, or `accept_encoding` the codings."""
        super().__init__(detail)
        self.accept = accept
        self.accept_encoding = accept_encoding


class Misdirected(ClientError):
    """The server does not serve the host that the request names (RFC 9110 section 15.5.20)."""


class RefusedByTransport(ClientError):
    """HTTP/1.1 forbids the request, or the server does not implement what it needs."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
