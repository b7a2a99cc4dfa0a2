"""A request that names another host than the server's is refused, but probes reach it by any IP address."""

import pytest

from service.api.errors import Misdirected
from service.api.hosts import LONGEST_HOST, AllowedHosts
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
def test_hosts_in_the_list_are_answered(allowed: AllowedHosts, host: str) -> None:
    assert passes(allowed, host)
    assert passes(allowed, host, is_probe=True)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "example.net", "api.example.org.evil.example", "api.example.org@evil.example", "localhost"),
        *("evil.example:3000", "api.example.org:port", "api.example.org,evil.example", "api.example.org evil.example"),
        *("[::1", "127.1", "0x7f000001", "\xe9.example", "a" * (LONGEST_HOST + 1)),
    ],
)
def test_other_names_and_malformed_hosts_are_refused_to_probes_too(allowed: AllowedHosts, host: str) -> None:
    assert not passes(allowed, host)
    assert not passes(allowed, host, is_probe=True)


@pytest.mark.parametrize("host", ["10.1.2.3:3000", "10.1.2.3", "[2001:db8::7]:3000", "[::1]:3001", ""])
def test_probes_reach_the_server_by_any_address_and_others_do_not(allowed: AllowedHosts, host: str) -> None:
    assert not passes(allowed, host)
    assert passes(allowed, host, is_probe=True)


def test_a_refusal_does_not_tell_what_the_client_wrote(allowed: AllowedHosts) -> None:
    with pytest.raises(Misdirected) as refused:
        allowed.check(b"<script>", is_probe=False)
    assert "script" not in refused.value.detail
