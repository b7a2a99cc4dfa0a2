"""The address of a client that connects through proxies.

Each proxy appends the address that connected to it to a header field. So the field is read from the right, and only as
far as trusted proxies wrote it. The client may have made up everything to the left of that.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from itertools import chain, islice

from service.addresses import IPNetwork, parse_address, split_port

MAX_HOPS = 32
"""Maximum number of proxies to follow."""
MAX_ADDRESS_LENGTH = 64
"""Characters of an address with its zone, brackets and port. Longer text is not an address."""
MAX_FORWARDED_BYTES = 8192
"""Size of the longest `Forwarded` field that is parsed."""

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

        It is the rightmost address that is not a trusted proxy's. If a proxy did not write an address (`unknown`, an
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
        for hop in islice(hops, MAX_HOPS):
            address, trusted = self._parse(hop) if len(hop) <= MAX_ADDRESS_LENGTH else ("", False)
            if not address:
                break
            client = address
            if not trusted:
                break
        return client

    def _look_up(self, text: str) -> tuple[str, bool]:
        """Return an address in normal form, empty if `text` is not an address, and whether it is a trusted proxy's."""
        try:
            address = parse_address(split_port(text)[0])
        except ValueError:
            return "", False
        return str(address), any(address in network for network in self._networks)


def _addresses(field: str) -> Iterator[str]:
    """Yield the addresses in a field like `X-Forwarded-For`, the last first."""
    return (node for each in reversed(field.rsplit(",", MAX_HOPS)) if (node := each.strip(" \t")))


def _forwarded(field: str) -> Iterator[str]:
    """Yield the node that each element of a `Forwarded` field names as `for` (RFC 7239), the last first.

    A node is empty if its element has no `for` or several. A malformed field yields one empty node: an unbalanced
    quotation mark of the client may hide what the proxy wrote after it.
    """
    elements: list[list[tuple[str, str]]] = [[]]
    position, separator = 0, ","
    while separator:
        match = _PARAMETER.match(field, position) if len(field) <= MAX_FORWARDED_BYTES else None
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
