"""Hosts, origins and networks are parsed in all their forms, and invalid ones are rejected."""

import re

import pytest

from service.addresses import HostPattern, parse_address, parse_network, parse_origin, split_port


@pytest.mark.parametrize(
    ("text", "name", "port"),
    [
        ("example.org", "example.org", None),
        ("EXAMPLE.org:8080", "example.org", 8080),
        ("example.org.", "example.org", None),
        ("example.org.:8080", "example.org", 8080),
        ("example.org:", "example.org", None),
        ("example.org:0", "example.org", 0),
        ("example.org:00080", "example.org", 80),
        ("192.0.2.1:80", "192.0.2.1", 80),
        ("[2001:DB8:0::1]", "2001:db8::1", None),
        ("[2001:db8::1]:443", "2001:db8::1", 443),
        ("[2001:db8::1]:", "2001:db8::1", None),
        ("2001:db8:0:0:0:0:0:1", "2001:db8::1", None),
        ("", "", None),
    ],
)
def test_a_host_is_split_from_its_port(text: str, name: str, port: int | None) -> None:
    assert split_port(text) == (name, port)


@pytest.mark.parametrize(
    "text",
    [
        *("example.org:http", "example.org:65536", "example.org:-1", "example.org:+80", "example.org:\u0663", "a:1:2"),
        *("[::1", "[::1]80", "[example.org]", "[]", "::g", f"example.org:{'9' * 5000}"),
    ],
)
def test_a_malformed_host_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a host and port|'.*'|Address"):
        split_port(text)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (
            "example.org",
            ["example.org", "EXAMPLE.ORG", "example.org.", "example.org:1", "example.org:65535", "example.org:"],
            ["a.example.org", "example.com", "org", "", "example.org.evil.test", "evil-example.org", "example.org.."],
        ),
        (
            "*.Example.org",
            ["a.example.org", "B.a.example.org:80"],
            ["example.org", "aexample.org", "a.example.org.evil.test"],
        ),
        ("localhost:3000", ["localhost:3000", "LOCALHOST.:3000"], ["localhost", "localhost:3001", "localhost:30000"]),
        ("example.org:443", ["example.org", "example.org:443", "example.org:"], ["example.org:80"]),
        ("*.example.org:8443", ["a.example.org:8443"], ["a.example.org", "example.org:8443"]),
        ("192.0.2.1", ["192.0.2.1", "192.0.2.1:8080"], ["192.0.2.10", "1.192.0.2.1"]),
        ("[2001:db8::1]:80", ["[2001:DB8::0:1]:80", "[2001:db8::1]"], ["[2001:db8::1]:81", "[2001:db8::2]"]),
        ("::1", ["[::1]", "[::1]:3000", "[0:0:0:0:0:0:0:1]"], ["[::2]", "127.0.0.1", "localhost"]),
        ("my_service", ["my_service:3000"], ["my-service"]),
    ],
)
def test_a_pattern_matches_its_hosts_and_no_others(pattern: str, matching: list[str], others: list[str]) -> None:
    parsed = HostPattern.parse(pattern)
    assert [host for host in matching if not parsed.matches(*split_port(host))] == []
    assert [host for host in others if parsed.matches(*split_port(host))] == []
    assert HostPattern.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        *("", "*", "*.", "a.*.org", "*example.org", "*.192.0.2.1", "*.[::1]", "https://example.org", "example.org/"),
        *(
            "exa mple.org",
            "example..org",
            ".example.org",
            "-a.org",
            "b\u00fccher.example",
            "example.org:0",
            "a:b",
            "user@a.org",
        ),
        *("a" * 64 + ".org", ".".join(["a" * 60] * 5)),
    ],
)
def test_an_invalid_host_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host such as") as refused:
        HostPattern.parse(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example.org", "https://app.example.org"),
        ("HTTPS://App.Example.ORG:443", "https://app.example.org"),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("*", "*"),
    ],
)
def test_an_origin_is_normalised_to_the_form_of_browsers(text: str, origin: str) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        *(
            "null",
            "NULL",
            "app.example.org",
            "//app.example.org",
            "https://",
            "https://app.example.org/",
            "https://*.example.org",
        ),
        *(
            "https://app.example.org/path",
            "https://app.example.org?a",
            "https://user@app.example.org",
            "https://a b.org",
        ),
        *(
            "https://b\u00fccher.example",
            "https://app.example.org:port",
            "https://app.example.org.",
            "**",
            "https://[::1",
        ),
        *("file:///", "data:", "https://app.example.org:"),
    ],
)
def test_an_invalid_origin_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="origin") as refused:
        parse_origin(text)
    assert text.lower() in str(refused.value).lower()


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
    ],
)
def test_a_network_is_parsed(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0.0/33", "localhost", "10.0.0", "*", "[::1]", "10.0.0.0/8/8"])
def test_an_invalid_network_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_network(text)


def test_an_address_of_a_dual_stack_socket_is_an_ipv4_address() -> None:
    assert str(parse_address("::ffff:192.0.2.1")) == "192.0.2.1"
    assert str(parse_address("2001:DB8::1")) == "2001:db8::1"
