"""Keys open what they are for, and clients are told apart by key or network."""

import pytest
from pydantic import SecretStr

from service.api.auth import Authenticator, client_id
from service.api.routing import Access
from service.errors import NotFound, Unauthorized

AUTHENTICATOR = Authenticator([SecretStr("one"), SecretStr("zwei-\u00e4")], [SecretStr("admin")])
OPEN = Authenticator([], [])


@pytest.mark.parametrize(
    ("access", "authorization", "key"),
    [
        ("public", None, None),
        ("public", b"Bearer wrong", None),
        ("api_key", b"Bearer one", b"one"),
        ("api_key", b"bearer  one ", b"one"),
        ("api_key", b"Bearer " + "zwei-\u00e4".encode(), "zwei-\u00e4".encode()),
        ("admin_key", b"Bearer admin", b"admin"),
    ],
)
def test_a_valid_key_is_returned(access: Access, authorization: bytes | None, key: bytes | None) -> None:
    assert AUTHENTICATOR.authenticate(access, authorization) == key


@pytest.mark.parametrize(
    ("access", "authorization"),
    [
        ("api_key", None),
        ("api_key", b""),
        ("api_key", b"one"),
        ("api_key", b"Basic one"),
        ("api_key", b"Bearer"),
        ("api_key", b"Bearer on"),
        ("api_key", b"Bearer one, two"),
        ("api_key", b"Bearer admin"),
        ("admin_key", None),
        ("admin_key", b"Bearer one"),
    ],
)
def test_any_other_is_refused(access: Access, authorization: bytes | None) -> None:
    with pytest.raises(Unauthorized, match="admin key" if access == "admin_key" else "API key"):
        AUTHENTICATOR.authenticate(access, authorization)


@pytest.mark.parametrize("authorization", [None, b"Bearer anything"])
def test_without_api_keys_anybody_may_use_the_models_and_is_not_authenticated(authorization: bytes | None) -> None:
    assert OPEN.authenticate("api_key", authorization) is None


def test_without_admin_keys_nobody_may_change_the_models() -> None:
    with pytest.raises(NotFound, match="DEEPSERVE_ADMIN_KEYS"):
        OPEN.authenticate("admin_key", b"Bearer admin")


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::1"),
        ("::ffff:192.0.2.1", "192.0.2.1", "::ffff:192.0.2.2"),
        ("fe80::1%eth0", "fe80::2%eth0", "fe80:0:0:1::1%eth0"),
        ("", "", "192.0.2.1"),
    ],
)
def test_without_a_key_a_client_is_a_network(one: str, same: str, other: str) -> None:
    assert client_id(None, one) == client_id(None, same) != client_id(None, other)


def test_with_a_key_a_client_is_the_key_whatever_its_address() -> None:
    assert client_id(b"one", "192.0.2.1") == client_id(b"one", "192.0.2.2") != client_id(b"two", "192.0.2.1")
    assert client_id(b"\xc0\x00\x02\x01", "") != client_id(None, "192.0.2.1"), "a key is never taken for an address"
