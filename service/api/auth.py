"""Authentication by keys, sent as `Authorization: Bearer KEY`.

API keys open the models; admin keys open the loading and unloading of models, and nothing else.
"""

import hmac
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from pydantic import SecretStr

from service.api.routing import Access
from service.errors import NotFound, Unauthorized


class Authenticator:
    """Checks the keys of requests."""

    def __init__(self, api_keys: Iterable[SecretStr], admin_keys: Iterable[SecretStr]) -> None:
        """Accept these keys. Without API keys anybody may use the models; without admin keys nobody may change them."""
        self._api_keys = [key.get_secret_value().encode() for key in api_keys]
        self._admin_keys = [key.get_secret_value().encode() for key in admin_keys]

    def authenticate(self, access: Access, authorization: bytes | None) -> bytes | None:
        """Return the valid key that a request carries; None if it needs none.

        Args:
            access: the key that its route needs.
            authorization: the header; None if the request does not have it.

        Raises:
            NotFound: the route needs an admin key and none is configured.
            Unauthorized: the request carries no valid key.
        """
        if access == "public" or (access == "api_key" and not self._api_keys):
            return None
        keys, kind = (self._api_keys, "API") if access == "api_key" else (self._admin_keys, "admin")
        if not keys:
            raise NotFound("Models are loaded and unloaded over HTTP only if DEEPSERVE_ADMIN_KEYS is set.")
        if (key := _bearer(authorization, keys)) is None:
            raise Unauthorized(f"This needs a valid {kind} key, as `Authorization: Bearer KEY`.")
        return key


def client_id(key: bytes | None, address: str) -> bytes:
    """Return what identifies a client for its rate limit: its API key or, without one, its network."""
    return _network(address) if key is None else b"key " + key


def _bearer(authorization: bytes | None, keys: Iterable[bytes]) -> bytes | None:
    scheme, _, given = (authorization or b"").partition(b" ")
    given = given.strip()
    # Compare every key, in constant time: the time must not depend on the keys.
    matches = [hmac.compare_digest(key, given) for key in keys]
    return given if scheme.lower() == b"bearer" and any(matches) else None


@lru_cache(1024)
def _network(address: str) -> bytes:
    """Return an IPv4 address, or the 64-bit network of an IPv6 address: a client may have any address in it."""
    try:
        parsed = ip_address(address)
    except ValueError:  # a Unix socket has none
        return b""
    if not isinstance(parsed, IPv6Address):
        return parsed.packed
    return parsed.packed[:8] if parsed.ipv4_mapped is None else parsed.ipv4_mapped.packed
