"""The hosts that requests may name: a defence against DNS rebinding.

An attacker can make the name of his web page resolve to the address of this server, in a network that the browser
reaches and he does not. For the browser, page and server then have the same origin, so that CORS does not protect the
server, and the page can read its responses. But the page cannot change the `Host` of its requests, which is the
attacker's name.
"""

from collections.abc import Collection
from functools import lru_cache

from service.addresses import HostPattern, is_address, split_port
from service.api.errors import Misdirected

MAX_HOST_BYTES = 260
"""A name of 253 characters, its trailing dot and a port."""


class AllowedHosts:
    """Refuses requests whose `Host` is not in a list."""

    def __init__(self, patterns: Collection[HostPattern]) -> None:
        self._patterns = patterns
        self._find = lru_cache(256)(self._look_up)

    def check(self, host: bytes, *, is_probe: bool) -> None:
        """Check that the `Host` of a request is allowed.

        Probes and scrapers reach a pod by its IP address. So their paths allow any IP address, and a missing `Host`:
        DNS rebinding needs a name.

        Args:
            host: the header field, empty if there is none.
            is_probe: whether the path is one for probes and scrapers.

        Raises:
            Misdirected: it is not allowed (RFC 9110 section 7.4).
        """
        allowed, is_nameless = self._find(host) if len(host) <= MAX_HOST_BYTES else (False, False)
        if not allowed and not (is_probe and is_nameless):
            raise Misdirected("This server does not serve the host that the request names.")

    def _look_up(self, host: bytes) -> tuple[bool, bool]:
        """Return whether a host is in the list, and whether it is an IP address or missing."""
        try:
            name, port = split_port(host.decode("latin-1"))
        except ValueError:
            return False, False
        return any(pattern.matches(name, port) for pattern in self._patterns), not name or is_address(name)
