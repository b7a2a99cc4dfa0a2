"""Requests that name another host are refused, but probes reach the server by any IP address."""

import pytest

from service.api.errors import Misdirected
from service.api.hosts import MAX_HOST_BYTES, AllowedHosts
from service.settings import Settings


def passes(allowed: AllowedHosts, host: str, *, is_probe: bool = False) -> bool:
    try:
        allowed.check(host.encode("latin-1"), is_probe=is_probe)
    except Misdirected:
        return False
    return True


@pytest.fixture
def allowed() -> AllowedHosts:
    return AllowedHosts(Settings(allowed_hosts="api.example.org, *.example.net, 192.0.2.1, [::1]:3000").allowed_hosts)


@pytest.mark.parametrize(
    "host", ["api.example.org", "API.example.org.:8443", "a.b.example.net", "192.0.2.1:3000", "[::1]:3000"]
)
def test_listed_hosts_are_served(allowed: AllowedHosts, host: str) -> None:
    assert passes(allowed, host)
    assert passes(allowed, host, is_probe=True)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "example.net", "api.example.org.evil.example", "api.example.org@evil.example", "localhost"),
        *("evil.example:3000", "api.example.org:port", "api.example.org,evil.example", "api.example.org evil.example"),
        *("[::1", "127.1", "0x7f000001", "\xe9.example", "a" * (MAX_HOST_BYTES + 1)),
    ],
)
def test_other_names_and_malformed_hosts_are_refused_to_probes_too(allowed: AllowedHosts, host: str) -> None:
    assert not passes(allowed, host)
    assert not passes(allowed, host, is_probe=True)


@pytest.mark.parametrize("host", ["10.1.2.3:3000", "10.1.2.3", "[2001:db8::7]:3000", "[::1]:3001", ""])
def test_probes_reach_the_server_by_any_address_and_other_requests_do_not(allowed: AllowedHosts, host: str) -> None:
    assert not passes(allowed, host)
    assert passes(allowed, host, is_probe=True)


def test_a_refusal_does_not_repeat_the_host(allowed: AllowedHosts) -> None:
    with pytest.raises(Misdirected) as refused:
        allowed.check(b"<script>", is_probe=False)
    assert "script" not in refused.value.detail
