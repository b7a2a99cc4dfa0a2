"""Keys: who may use the models, and who may change what is served. Probes, metrics and the documentation stay open."""

import hmac
from collections.abc import Iterable

from pydantic import SecretStr

from service.errors import NotFound, Unauthorized


def check_key(keys: Iterable[SecretStr], authorization: bytes | None) -> None:
    """Lets a request pass whose `Authorization: Bearer ...` is one of the keys, and any if there are none.

    Raises:
        Unauthorized: it carries no key, or none of these.
    """
    known = _encoded(keys)
    if known and not _carries_one_of(known, authorization):
        raise Unauthorized("This needs a valid API key, as `Authorization: Bearer KEY`.")


def check_admin_key(keys: Iterable[SecretStr], authorization: bytes | None) -> None:
    """Lets a request pass whose `Authorization: Bearer ...` is one of the keys, and none if there are none.

    Raises:
        NotFound: there are no such keys, so that nobody changes here what is served.
        Unauthorized: it carries no key, or none of these.
    """
    if not (known := _encoded(keys)):
        raise NotFound("Models are loaded and unloaded over HTTP only where DEEPSERVE_ADMIN_KEYS is set.")
    if not _carries_one_of(known, authorization):
        raise Unauthorized("This needs a valid admin key, as `Authorization: Bearer KEY`.")


def _encoded(keys: Iterable[SecretStr]) -> list[bytes]:
    return [key.get_secret_value().encode() for key in keys]


def _carries_one_of(known: Iterable[bytes], authorization: bytes | None) -> bool:
    scheme, _, given = (authorization or b"").partition(b" ")
    # Every key is compared, in constant time, so that the time taken tells nothing about them.
    matches = [hmac.compare_digest(key, given.strip()) for key in known]
    return scheme.lower() == b"bearer" and any(matches)
