"""Keys: what a request carries as `Authorization: Bearer KEY`."""

import hmac
from collections.abc import Iterable

from pydantic import SecretStr


class Keys:
    """The keys that open a door."""

    def __init__(self, keys: Iterable[SecretStr]) -> None:
        self._known = [key.get_secret_value().encode() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._known)

    def carried_by(self, authorization: bytes | None) -> bytes | None:
        """The one of them that the header `Authorization` carries; None if it carries none."""
        scheme, _, given = (authorization or b"").partition(b" ")
        given = given.strip()
        # Every key is compared, in constant time, so that the time taken tells nothing about them.
        matches = [hmac.compare_digest(key, given) for key in self._known]
        return given if scheme.lower() == b"bearer" and any(matches) else None
