"""Parse hosts, origins and networks of settings and header fields into a normal form."""

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
    """A pattern of allowed hosts: one name or IP address, or all subdomains of a name."""

    name: str
    """In lower case, without trailing dot or brackets. Never "*"."""
    port: int | None = None
    """None matches any port."""
    subdomains: bool = False
    """Whether the pattern matches the subdomains of the name, at any depth, instead of the name itself."""

    @classmethod
    def parse(cls, text: str) -> "HostPattern":
        """Parse `example.org`, `example.org:8080`, `*.example.org`, `192.0.2.1` or `[2001:db8::1]:8080`.

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
            raise ValueError(f"{text!r} is not a host such as example.org, *.example.org, localhost:3000 or [::1]")
        return cls(name, port, subdomains)

    def matches(self, name: str, port: int | None) -> bool:
        """Return whether the pattern matches a host that `split_port` returned.

        A host without a port has the default port of its scheme. The scheme is unknown behind a proxy that terminates
        TLS, so both default ports match.
        """
        if self.port is not None and self.port not in ((port,) if port is not None else _DEFAULT_PORTS.values()):
            return False
        return name.endswith(f".{self.name}") if self.subdomains else name == self.name

    def __str__(self) -> str:
        name = f"[{self.name}]" if ":" in self.name else self.name
        return ("*." if self.subdomains else "") + name + ("" if self.port is None else f":{self.port}")


def split_port(host: str) -> tuple[str, int | None]:
    """Split `host[:port]` (RFC 3986 section 3.2). An IPv6 address may lack its brackets if it has no port.

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
    """Return an origin as browsers send it (RFC 6454 section 6.2), in lower case without default port; or `*`.

    Raises:
        ValueError: `text` is not an origin, or is `null`, the origin of every sandboxed frame.
    """
    if text == "*":
        return text
    if text.lower() == "null":
        raise ValueError("'null' is the origin of every sandboxed frame and local file, so it cannot be allowed")
    scheme, _, host = text.lower().partition("://")
    try:
        name, port = split_port(host)
    except ValueError:
        name, port = "", None
    if not _SCHEME.fullmatch(scheme) or not (is_address(name) or _NAME.fullmatch(name)) or host.endswith((".", ":")):
        raise ValueError(f"{text!r} is not an origin of scheme, host and port, such as https://app.example.org")
    host = f"[{name}]" if ":" in name else name
    return f"{scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS.get(scheme)) else f":{port}")


def parse_network(text: str) -> IPNetwork:
    """Parse an IP address or a network, such as `10.0.0.0/8`.

    Raises:
        ValueError: `text` is neither, or has host bits set, such as `10.0.0.1/8`.
    """
    network = ip_network(text)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None or network.prefixlen < 96 else IPv4Network((mapped, network.prefixlen - 96))


def parse_address(text: str) -> IPAddress:
    """Parse an IP address. An IPv4-mapped IPv6 address, as on a dual-stack socket, becomes an IPv4 address.

    Raises:
        ValueError: `text` is not an IP address.
    """
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def is_address(name: str) -> bool:
    """Return whether a host is an IP address."""
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
