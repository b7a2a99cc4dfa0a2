"""The client's address is what trusted proxies write; everything else may be forged."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.client_address import MAX_HOPS, TrustedProxies
from service.settings import Settings

PROXY, CLIENT = "10.0.0.1", "203.0.113.7"
TRUSTED = Settings(trusted_proxies="10.0.0.0/8, 192.0.2.9, 2001:db8::/32").trusted_proxies


def client(*fields: str, peer: str = PROXY, header: str = "X-Forwarded-For") -> str:
    """The client's address if the peer sends these fields, a line each."""
    headers = [(header.lower().encode(), field.encode("latin-1")) for field in fields]
    return TrustedProxies(TRUSTED, header).client(peer, [(b"host", b"a"), *headers, (b"accept", b"*/*")])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((), PROXY),
        (("",), PROXY),
        ((CLIENT,), CLIENT),
        (("198.51.100.1, 203.0.113.7",), CLIENT),
        (("198.51.100.1,203.0.113.7,10.0.0.2 ,\t192.0.2.9",), CLIENT),
        (("198.51.100.1", "203.0.113.7", "10.0.0.2"), CLIENT),  # a line from each proxy
        (("10.0.0.3, 10.0.0.2",), "10.0.0.3"),  # the client is on the proxies' network
        (("203.0.113.7:52100",), CLIENT),
        (("2a00:1450::9",), "2a00:1450::9"),
        (("[2a00:1450::9]:443",), "2a00:1450::9"),
        (("2A00:1450:0:0::9, 2001:db8::5",), "2a00:1450::9"),
        (("::ffff:203.0.113.7",), CLIENT),
        (("203.0.113.7, ::ffff:10.0.0.2",), CLIENT),
        (("fe80::1%eth0",), "fe80::1%eth0"),
        (("203.0.113.7, unknown",), PROXY),
        (("203.0.113.7, garbage, 10.0.0.2",), "10.0.0.2"),
        (("203.0.113.7, _hidden",), PROXY),
        (("203.0.113.7 10.0.0.2",), PROXY),
        (("203.0.113.7, , 10.0.0.2,",), CLIENT),  # empty elements are none: RFC 9110 section 5.6.1
        (("caf\xe9",), PROXY),
        (("x" * 60000,), PROXY),
    ],
)
def test_x_forwarded_for_is_read_from_the_right_as_far_as_proxies_are_trusted(
    fields: tuple[str, ...], expected: str
) -> None:
    assert client(*fields) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((), PROXY),
        (("for=203.0.113.7",), CLIENT),
        (('For="203.0.113.7:52100";proto=https;by=10.0.0.1',), CLIENT),
        (("proto=https ; host=a , for=203.0.113.7;host=b",), CLIENT),
        (('for="[2a00:1450::9]:4711"',), "2a00:1450::9"),
        (('for="[2a00:1450::9]"',), "2a00:1450::9"),
        (('for=198.51.100.1, for="203\\.0.113.7", for=10.0.0.2',), CLIENT),
        (("for=198.51.100.1", "for=203.0.113.7", "for=10.0.0.2"), CLIENT),
        (("for=198.51.100.1, for=unknown",), PROXY),
        (('for=198.51.100.1, for="_gazonk"',), PROXY),
        (("for=198.51.100.1, proto=http",), PROXY),
        (("for=198.51.100.1, for=203.0.113.7;for=1.2.3.4",), PROXY),
        (("for=203.0.113.7, ,",), CLIENT),
        (('host="a, for=1.2.3.4", for=203.0.113.7',), CLIENT),
        (('host="a\\", for=1.2.3.4", for=203.0.113.7',), CLIENT),
        # What the client wrote swallows what the proxy wrote behind it: nothing on that line is believed.
        (('for=1.2.3.4, host="x, for=203.0.113.7',), PROXY),
        (('for=1.2.3.4, host="x, for="203.0.113.7:1"',), PROXY),
        (('for=1.2.3.4, host="x', "for=203.0.113.7"), CLIENT),
        (("203.0.113.7",), PROXY),
        (("for=203.0.113.7 proto=https",), PROXY),
        (("for = 203.0.113.7",), PROXY),
        (("x" * 9000 + "=a, for=203.0.113.7",), PROXY),
    ],
)
def test_forwarded_is_parsed_by_its_rfc(fields: tuple[str, ...], expected: str) -> None:
    assert client(*fields, header="Forwarded") == expected


@pytest.mark.parametrize("peer", [CLIENT, "192.0.2.10", "2a00:1450::9", "::ffff:203.0.113.7"])
def test_a_peer_that_is_not_trusted_is_the_client_whatever_it_sends(peer: str) -> None:
    assert client("1.2.3.4", peer=peer) == peer.removeprefix("::ffff:")


@pytest.mark.parametrize("peer", ["192.0.2.9", "2001:db8::7", "::ffff:10.9.9.9"])
def test_a_proxy_is_trusted_by_address_or_network_and_on_a_dual_stack_socket(peer: str) -> None:
    assert client(CLIENT, peer=peer) == CLIENT


@pytest.mark.parametrize("header", ["X-Real-IP", "CF-Connecting-IP"])
def test_a_header_with_a_single_address_is_read_too(header: str) -> None:
    assert client(CLIENT, header=header) == CLIENT


def test_the_case_of_the_header_does_not_matter() -> None:
    assert client("for=203.0.113.7", header="forwarded") == client(CLIENT, header="x-forwarded-for") == CLIENT


def test_a_peer_without_an_address_has_none() -> None:
    assert client("1.2.3.4", peer="") == ""


@pytest.mark.parametrize(
    ("header", "other"),
    [("X-Forwarded-For", (b"forwarded", b"for=1.2.3.4")), ("Forwarded", (b"x-forwarded-for", b"1.2.3.4"))],
)
def test_the_header_that_the_proxies_do_not_write_is_ignored(header: str, other: tuple[bytes, bytes]) -> None:
    assert TrustedProxies(TRUSTED, header).client(PROXY, [other]) == PROXY


@given(st.lists(st.sampled_from(["1.2.3.4", "10.0.0.2", "unknown", "::1", "", '"', "for=1.2.3.4", ";", 'host="a'])))
def test_nothing_that_a_client_sends_hides_the_address_that_its_proxy_appends(written: list[str]) -> None:
    assert client(", ".join([*written, CLIENT])) == CLIENT
    assert client(", ".join([*written, f"for={CLIENT}"]), header="Forwarded") in (CLIENT, PROXY)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
@pytest.mark.parametrize("part", ["10.0.0.2, ", "for=10.0.0.2, ", " ", '"', "for=", 'for="', ";", ",", '\\"'])
def test_no_field_takes_long_to_read(header: str, part: str) -> None:
    began = time.process_time()
    client(part * (60000 // len(part)), header=header)
    client(part * (8000 // len(part)) + "@", header=header)
    client('for="' + part * (8000 // len(part)), header=header)
    assert time.process_time() - began < 0.1


def test_the_number_of_proxies_is_limited() -> None:
    assert client(", ".join([CLIENT, *["10.0.0.2"] * (MAX_HOPS - 1)])) == CLIENT
    assert client(", ".join([CLIENT, *["10.0.0.2"] * MAX_HOPS])) == "10.0.0.2"
