"""API keys: who may use the models. Probes, metrics and the documentation stay open."""

import hmac
from collections.abc import Iterable

from pydantic import SecretStr

from service.errors import Unauthorized


def check_key(keys: Iterable[SecretStr], authorization: bytes | None) -> None:
    """Lets a request pass whose `Authorization: Bearer ...` is one of the keys, and any if there are none.

    Raises:
        Unauthorized: it carries no key, or none of these.
    """
    known = [key.get_secret_value().encode() for key in keys]
    if not known:
        return
    scheme, _, given = (authorization or b"").partition(b" ")
    # Every key is compared, in constant time, so that the time taken tells nothing about them.
    matches = [hmac.compare_digest(key, given.strip()) for key in known]
    if scheme.lower() != b"bearer" or not any(matches):
        raise Unauthorized("This needs a valid API key, as `Authorization: Bearer KEY`.")
