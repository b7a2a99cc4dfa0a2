"""The address of a client that connects through proxies.

Each proxy adds the address that connected to it to the end of a header field. So the field is read from the right, and
only as far as trusted proxies wrote it: whatever is further left the client may have made up.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from itertools import chain, islice

from service.addresses import IPNetwork, parse_address, split_port

MOST_HOPS = 32
"""Proxies that are followed."""
LONGEST_ADDRESS = 64
"""Characters of an address with its zone, brackets and port; longer text is none."""
LONGEST_FORWARDED = 8192
"""Bytes of a `Forwarded` field that is read."""

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(rf'[ \t]*+(?:({_TOKEN})=(?:({_TOKEN})|"((?:[^"\\]|\\.)*+)"))?[ \t]*+([;,]|\Z)')
"""A parameter of `Forwarded`, which may be missing, and what follows it (RFC 7239 section 4)."""


class TrustedProxies:
    """Finds the clients of requests that trusted proxies forward."""

    def __init__(self, networks: Collection[IPNetwork], header: str) -> None:
        """Trust proxies in `networks`, which write the client's address into `header`.

        The header is `Forwarded`, or one that lists addresses as `X-Forwarded-For` does.
        """
        self._networks = networks
        self._header = header.lower().encode()
        self._hops = _forwarded if self._header == b"forwarded" else _addresses
        self._parse = lru_cache(1024)(self._look_up)

    def client(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the address of the client.

        It is the rightmost address that is not a trusted proxy's. Where a proxy tells no address (`unknown`, an
        obfuscated identifier, anything else), it is the address of that proxy.

        Args:
            peer: the address that connected.
            headers: of the request, with lower-case names.
        """
        client, trusted = self._parse(peer)
        if not trusted:
            return client
        fields = [value.decode("latin-1") for name, value in headers if name == self._header]
        hops = chain.from_iterable(map(self._hops, reversed(fields)))
        for hop in islice(hops, MOST_HOPS):
            address, trusted = self._parse(hop) if len(hop) <= LONGEST_ADDRESS else ("", False)
            if not address:
                break
            client = address
            if not trusted:
                break
        return client

    def _look_up(self, text: str) -> tuple[str, bool]:
        """Return an address in normal form, empty if `text` is none, and whether it is a trusted proxy's."""
        try:
            address = parse_address(split_port(text)[0])
        except ValueError:
            return "", False
        return str(address), any(address in network for network in self._networks)


def _addresses(field: str) -> Iterator[str]:
    """Yield the nodes of a field like `X-Forwarded-For`, the last first."""
    return (node for each in reversed(field.rsplit(",", MOST_HOPS)) if (node := each.strip(" \t")))


def _forwarded(field: str) -> Iterator[str]:
    """Yield the node that each element of a `Forwarded` field names as `for` (RFC 7239), the last first.

    It is empty where the element has no `for` or several. A malformed field is one empty node: it may be the client's
    quotation mark that swallows what the proxy wrote behind it.
    """
    elements: list[list[tuple[str, str]]] = [[]]
    position, separator = 0, ","
    while separator:
        match = _PARAMETER.match(field, position) if len(field) <= LONGEST_FORWARDED else None
        if match is None:
            return iter([""])
        name, token, quoted, separator = match.groups()
        if name is not None:
            elements[-1].append((name.lower(), token if quoted is None else re.sub(r"\\(.)", r"\1", quoted)))
        if separator == ",":
            elements.append([])
        position = match.end()
    return (_node(parameters) for parameters in reversed(elements) if parameters)


def _node(parameters: Collection[tuple[str, str]]) -> str:
    nodes = [value for name, value in parameters if name == "for"]
    return nodes[0] if len(nodes) == 1 else ""
