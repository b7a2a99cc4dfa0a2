"""Cross-origin resource sharing: which web pages may call the server (Fetch standard, "HTTP CORS protocol").

Starlette's CORSMiddleware is not used. It knows no routes, so that it would offer every method everywhere; its
preflight responses would have no request id, log line or metric; and it costs 7 us of CPU a request, this module 0.3.
"""

from collections.abc import Collection, Sequence

from service.api.errors import Forbidden
from service.api.routing import PLAIN_TEXT, HttpRequest, HttpResponse

MAX_AGE_SECONDS = 600
"""How long a browser may cache the response to a preflight request."""

REQUEST_HEADERS = (
    *("Accept", "Accept-Language", "Content-Language", "Content-Type"),  # with values that need a preflight request
    *("Authorization", "Content-Encoding", "Inference-Header-Content-Length", "X-Request-ID", "X-Request-Timeout"),
    *("baggage", "traceparent", "tracestate"),
)
"""Request headers that a page may send."""

RESPONSE_HEADERS = (
    *("Allow", "Content-Encoding", "Inference-Header-Content-Length", "Retry-After", "Server-Timing"),
    *("WWW-Authenticate", "X-Model-Version", "X-Request-ID", "X-Seed"),
)
"""Response headers that a page may read, besides the ones that CORS always exposes."""

METHODS_OF_UNKNOWN_PATHS = ("GET", "HEAD", "POST")
"""Offered for paths without a route, so that the page can read the 404."""

Headers = tuple[tuple[bytes, bytes], ...]

_ALLOW_ORIGIN = b"access-control-allow-origin"
_EXPOSE = (b"access-control-expose-headers", ", ".join(RESPONSE_HEADERS).encode())
_VARY = (b"vary", b"Origin")


class CrossOrigin:
    """The origins that may call this server.

    Credentials in the sense of the Fetch standard (cookies, client certificates) are never allowed: the server uses
    none. API keys are in `Authorization`, which a page sets itself.
    """

    def __init__(self, origins: Collection[str]) -> None:
        """Allow these origins, in the form that browsers send, or all if one of them is `*`."""
        self._any = "*" in origins
        self._allowed: dict[bytes, Headers] = {
            origin.encode(): ((_ALLOW_ORIGIN, origin.encode()), _EXPOSE, _VARY) for origin in origins if origin != "*"
        }
        # With `*` the response is the same for every origin. With a list it varies, also for requests without `Origin`:
        # a cache must not serve their responses to a page of a listed origin.
        self._others: Headers = ((_ALLOW_ORIGIN, b"*"), _EXPOSE) if self._any else (_VARY,)

    def headers(self, origin: bytes | None) -> Headers:
        """Return the header fields of a response, of an error too, to a request with this `Origin`."""
        return self._allowed.get(origin, self._others) if origin is not None else self._others

    def preflight(self, request: HttpRequest, methods: Sequence[str]) -> HttpResponse | None:
        """Answer a CORS-preflight request. It needs no key: browsers send none with it.

        Args:
            request: any request.
            methods: allowed methods of the path; empty for an unknown path.

        Returns:
            The response without the fields that `headers` returns; None if the request is not a preflight request.

        Raises:
            Forbidden: the origin is not allowed.
        """
        origin = request.headers.get(b"origin")
        if request.method != "OPTIONS" or origin is None or b"access-control-request-method" not in request.headers:
            return None
        if not self._any and origin not in self._allowed:
            raise Forbidden("Pages of this origin may not call the server: DEEPSERVE_CORS_ORIGINS does not list it.")
        headers = {
            "Access-Control-Allow-Methods": ", ".join(methods or METHODS_OF_UNKNOWN_PATHS),
            "Access-Control-Allow-Headers": ", ".join(REQUEST_HEADERS),
            "Access-Control-Max-Age": str(MAX_AGE_SECONDS),
        }
        # Private Network Access: a public page reaches into a private network only if its origin is listed by name.
        if request.headers.get(b"access-control-request-private-network") == b"true" and not self._any:
            headers["Access-Control-Allow-Private-Network"] = "true"
        return HttpResponse(b"", PLAIN_TEXT, headers=headers)
