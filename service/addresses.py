"""Hosts, origins and networks: how settings and header fields write them, in one normal form."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_HOST = re.compile(r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]{0,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class HostPattern:
    """Hosts that a request may name: one name or IP address, or all subdomains of a name."""

    name: str
    """Lower-case, without trailing dot or brackets. Never "*"."""
    port: int | None = None
    """None for any."""
    subdomains: bool = False
    """Whether it means the subdomains of the name, at any depth, and not the name itself."""

    @classmethod
    def parse(cls, text: str) -> "HostPattern":
        """Read `example.org`, `example.org:8080`, `*.example.org`, `192.0.2.1` or `[2001:db8::1]:8080`.

        Raises:
            ValueError: `text` is none of these.
        """
        subdomains = text.startswith("*.")
        try:
            name, port = split_port(text.removeprefix("*."))
        except ValueError:
            name, port = "", None
        is_valid = not subdomains if is_address(name) else _NAME.fullmatch(name)
        if not is_valid or port == 0:
            raise ValueError(f"{text!r} is not a host, as in example.org, *.example.org, localhost:3000 or [::1]")
        return cls(name, port, subdomains)

    def matches(self, name: str, port: int | None) -> bool:
        """Return whether a host as `split_port` gives it is meant.

        Without a port the host has the default port of its scheme. Behind a proxy that ends TLS the scheme is unknown:
        either default port matches then.
        """
        if self.port is not None and self.port not in ((port,) if port is not None else _DEFAULT_PORTS.values()):
            return False
        return name.endswith(f".{self.name}") if self.subdomains else name == self.name

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return ("*." if self.subdomains else "") + name + ("" if self.port is None else f":{self.port}")


def split_port(host: str) -> tuple[str, int | None]:
    """Split `host[:port]` (RFC 3986 section 3.2), and an IPv6 address with or without brackets.

    Returns:
        The name or address in lower case, without brackets and the trailing dot of a fully qualified name; the port, or
        None if it is missing or empty.

    Raises:
        ValueError: the brackets, the IPv6 address or the port are malformed. The name is not checked.
    """
    if host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"
    match = _HOST.fullmatch(host.lower())
    port = int(match["port"] or -1) if match is not None else 2**16
    if match is None or port >= 2**16:
        raise ValueError(f"{host!r} is not a host and port")
    name = IPv6Address(match["ipv6"]).compressed if match["ipv6"] is not None else match["name"].removesuffix(".")
    return name, None if port < 0 else port


def parse_origin(text: str) -> str:
    """Return an origin as browsers write it (RFC 6454 section 6.2): lower case, no default port; or `*`.

    Raises:
        ValueError: `text` is not an origin, or is `null`, which anybody's sandboxed frame has.
    """
    if text == "*":
        return text
    if text.lower() == "null":
        raise ValueError("'null' is the origin of every sandboxed frame and local file, so that it cannot be listed")
    scheme, _, host = text.lower().partition("://")
    try:
        name, port = split_port(host)
    except ValueError:
        name, port = "", None
    if not _SCHEME.fullmatch(scheme) or not (is_address(name) or _NAME.fullmatch(name)) or host.endswith((".", ":")):
        raise ValueError(f"{text!r} is not an origin: scheme, host and port alone, as in https://app.example.org")
    host = f"[{name}]" if ":" in name else name
    return f"{scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS.get(scheme)) else f":{port}")


def parse_network(text: str) -> IPNetwork:
    """Read an IP address or a network, as in `10.0.0.0/8`.

    Raises:
        ValueError: it is neither, or an address within a network, as `10.0.0.1/8` is.
    """
    network = ip_network(text)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None or network.prefixlen < 96 else IPv4Network((mapped, network.prefixlen - 96))


def parse_address(text: str) -> IPAddress:
    """Read an IP address; an IPv4 address that is mapped to IPv6, as on a dual-stack socket, is an IPv4 address.

    Raises:
        ValueError: it is none.
    """
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def is_address(name: str) -> bool:
    """Return whether a host is an IP address and not a name."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
