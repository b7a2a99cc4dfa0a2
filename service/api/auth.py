"""Who may ask, how often, and how long an answer may take: decided from the head of a request alone.

API keys open the models, admin keys the changes of what is served. Probes, metrics and the documentation are open.
"""

import math
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from service.api.keys import Keys
from service.api.messages import HttpRequest, Route
from service.api.rate_limit import RateLimit, SharedRateLimit
from service.context import RequestContext
from service.errors import Fault, Invalid, NotFound, Unauthorized
from service.registry.reconciler import PATIENCE
from service.settings import Settings

LONGEST_CHANGE = 2 * PATIENCE
"""Seconds that a client may wait for a change of what is served: until it is made, or made and taken back."""


class Admission:
    """The rules of one server."""

    def __init__(self, settings: Settings) -> None:
        """Rules by the keys and limits of `settings`."""
        self._keys, self._admin_keys = Keys(settings.api_keys), Keys(settings.admin_keys)
        self._longest = settings.request_timeout_seconds
        self._limit = _rate_limit(settings)

    async def admit(self, route: Route, request: HttpRequest, context: RequestContext) -> float:
        """Let a request pass to a route that is not public, and record whether it carries a valid key.

        Returns:
            Seconds that the request may take.

        Raises:
            NotFound: only an admin key would open the route, and there are none.
            Unauthorized: the request carries no key to the route.
            TooManyRequests: its client has made too many.
            Invalid: it asks for a time that is none.
        """
        authorization = request.headers.get(b"authorization")
        if route.admin:
            self._check_admin_key(authorization)
            context.authenticated = True
            longest = LONGEST_CHANGE
        else:
            key = self._key(authorization)
            context.authenticated = key is not None
            if self._limit is not None and route.metered:
                await self._limit.check(_network(context.client) if key is None else b"key " + key)
            longest = self._longest
        return _seconds(request.headers.get(b"x-request-timeout"), longest)

    async def close(self) -> None:
        """Close the connections to the storage of the rate limits."""
        if self._limit is not None:
            await self._limit.close()

    def _key(self, authorization: bytes | None) -> bytes | None:
        """The API key that a request carries; None where none is needed."""
        if not self._keys:
            return None
        if (key := self._keys.carried_by(authorization)) is None:
            raise Unauthorized("This needs a valid API key, as `Authorization: Bearer KEY`.")
        return key

    def _check_admin_key(self, authorization: bytes | None) -> None:
        if not self._admin_keys:
            raise NotFound("Models are loaded and unloaded over HTTP only where DEEPSERVE_ADMIN_KEYS is set.")
        if self._admin_keys.carried_by(authorization) is None:
            raise Unauthorized("This needs a valid admin key, as `Authorization: Bearer KEY`.")


def _rate_limit(settings: Settings) -> RateLimit | None:
    rate, burst = settings.rate_limit_per_second, settings.rate_burst
    uri = settings.rate_limit_storage_uri.get_secret_value()
    if not rate:
        return None
    return RateLimit(rate, burst) if uri == "memory://" else SharedRateLimit(rate, burst, uri)


@lru_cache(1024)
def _network(client: str) -> bytes:
    """What one client has of addresses: one of IPv4; of IPv6, where it may have any in a network of 64 bits, that."""
    try:
        address = ip_address(client)
    except ValueError:  # a Unix socket has none
        return b""
    if not isinstance(address, IPv6Address):
        return address.packed
    return address.packed[:8] if address.ipv4_mapped is None else address.ipv4_mapped.packed


def _seconds(wanted: bytes | None, most: float) -> float:
    """How long a request may take: what the client asks for, at most what the server allows."""
    if wanted is None:
        return most
    try:
        seconds = float(wanted)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        fault = Fault(("header", "X-Request-Timeout"), "seconds, above 0")
        raise Invalid("The request is not valid.", faults=(fault,))
    return min(seconds, most)
