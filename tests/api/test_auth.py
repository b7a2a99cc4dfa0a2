"""Whose requests are counted together, which of them are counted at all, and in what order they are refused."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from service.api.auth import LONGEST_CHANGE, Admission
from service.api.messages import HttpRequest, HttpResponse, Route
from service.context import RequestContext
from service.errors import NotFound, TooManyRequests, Unauthorized
from service.settings import Settings


async def answer(_request: HttpRequest, _call: RequestContext) -> HttpResponse:
    return HttpResponse(b"")


async def no_body() -> Message:
    raise AssertionError("nobody reads it")


PREDICT = Route("/v1/digits", {"POST": answer}, metered=True)
CARDS = Route("/v1/models", {"GET": answer})
CHANGE = Route("/v2/repository/models/{name}/load", {"POST": answer}, admin=True)


def rules(folder: Path, **settings: Any) -> Admission:
    return Admission(
        Settings(rate_limit_per_second=0.001, rate_burst=2, request_timeout_seconds=20, **settings), folder
    )


def asked_by(client: str = "192.0.2.1", key: str | None = None) -> tuple[HttpRequest, RequestContext]:
    headers = {} if key is None else {b"authorization": f"Bearer {key}".encode()}
    return HttpRequest("POST", "/v1/digits", b"", headers, no_body), RequestContext(client=client)


def passes(admission: Admission, asked: tuple[HttpRequest, RequestContext]) -> bool:
    try:
        return admission.admit(PREDICT, *asked) == 20
    except TooManyRequests:
        return False


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
def test_without_keys_a_client_is_an_address(tmp_path: Path, one: str, same: str, other: str) -> None:
    admission = rules(tmp_path)
    assert [passes(admission, asked_by(peer)) for peer in (one, same, one)] == [True, True, False]
    assert passes(admission, asked_by(other))


def test_with_keys_a_client_is_a_key_wherever_it_asks_from(tmp_path: Path) -> None:
    admission = rules(tmp_path, api_keys="one,two")
    peers = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
    assert [passes(admission, asked_by(peer, "one")) for peer in peers] == [True, True, False]
    assert passes(admission, asked_by("192.0.2.1", "two"))


def test_who_is_not_let_in_is_not_counted(tmp_path: Path) -> None:
    admission = rules(tmp_path, api_keys="one")
    for key in ("wrong", None) * 5:
        with pytest.raises(Unauthorized):
            admission.admit(PREDICT, *asked_by(key=key))
    assert [passes(admission, asked_by(key="one")) for _ in range(3)] == [True, True, False]


def test_only_predictions_are_counted(tmp_path: Path) -> None:
    admission = rules(tmp_path, api_keys="one", admin_keys="admin")
    assert {admission.admit(CARDS, *asked_by(key="one")) for _ in range(5)} == {20}
    assert {admission.admit(CHANGE, *asked_by(key="admin")) for _ in range(5)} == {LONGEST_CHANGE}
    assert passes(admission, asked_by(key="one"))


def test_without_a_limit_nobody_is_counted(tmp_path: Path) -> None:
    admission = Admission(Settings(), tmp_path)
    assert {admission.admit(PREDICT, *asked_by()) for _ in range(100)} == {Settings().request_timeout_seconds}


def test_what_is_served_changes_nobody_without_admin_keys(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="DEEPSERVE_ADMIN_KEYS"):
        rules(tmp_path).admit(CHANGE, *asked_by(key="admin"))


def test_only_a_valid_key_authenticates_a_request(tmp_path: Path) -> None:
    admission = rules(tmp_path, api_keys="one", admin_keys="admin")
    for route, key in ((PREDICT, "one"), (CHANGE, "admin"), (PREDICT, "admin"), (CHANGE, "one"), (PREDICT, None)):
        request, call = asked_by(key=key)
        with suppress(Unauthorized):
            admission.admit(route, request, call)
        assert call.authenticated == ((route, key) in ((PREDICT, "one"), (CHANGE, "admin")))
    request, call = asked_by()
    rules(tmp_path).admit(PREDICT, request, call)
    assert not call.authenticated, "without keys nobody is"


def test_who_carries_a_valid_key_is_authenticated_over_the_limit_too(tmp_path: Path) -> None:
    admission = rules(tmp_path, api_keys="one")
    while passes(admission, asked_by(key="one")):
        pass
    request, call = asked_by(key="one")
    assert not passes(admission, (request, call))
    assert call.authenticated
