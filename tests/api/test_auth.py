"""Whose requests are counted together, which of them are counted at all, and in what order they are refused."""

from contextlib import suppress
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


pytestmark = pytest.mark.anyio

PREDICT = Route("/v1/digits", {"POST": answer}, metered=True)
CARDS = Route("/v1/models", {"GET": answer})
CHANGE = Route("/v2/repository/models/{name}/load", {"POST": answer}, admin=True)


def rules(**settings: Any) -> Admission:
    return Admission(Settings(rate_limit_per_second=0.001, rate_burst=2, request_timeout_seconds=20, **settings))


def asked_by(client: str = "192.0.2.1", key: str | None = None) -> tuple[HttpRequest, RequestContext]:
    headers = {} if key is None else {b"authorization": f"Bearer {key}".encode()}
    return HttpRequest("POST", "/v1/digits", b"", headers, no_body), RequestContext(client=client)


async def passes(admission: Admission, asked: tuple[HttpRequest, RequestContext]) -> bool:
    try:
        return await admission.admit(PREDICT, *asked) == 20
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
async def test_without_keys_a_client_is_an_address(one: str, same: str, other: str) -> None:
    admission = rules()
    assert [await passes(admission, asked_by(peer)) for peer in (one, same, one)] == [True, True, False]
    assert await passes(admission, asked_by(other))


async def test_with_keys_a_client_is_a_key_wherever_it_asks_from() -> None:
    admission = rules(api_keys="one,two")
    peers = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
    assert [await passes(admission, asked_by(peer, "one")) for peer in peers] == [True, True, False]
    assert await passes(admission, asked_by("192.0.2.1", "two"))


async def test_who_is_not_let_in_is_not_counted() -> None:
    admission = rules(api_keys="one")
    for key in ("wrong", None) * 5:
        with pytest.raises(Unauthorized):
            await admission.admit(PREDICT, *asked_by(key=key))
    assert [await passes(admission, asked_by(key="one")) for _ in range(3)] == [True, True, False]


async def test_only_predictions_are_counted() -> None:
    admission = rules(api_keys="one", admin_keys="admin")
    assert {await admission.admit(CARDS, *asked_by(key="one")) for _ in range(5)} == {20}
    assert {await admission.admit(CHANGE, *asked_by(key="admin")) for _ in range(5)} == {LONGEST_CHANGE}
    assert await passes(admission, asked_by(key="one"))


async def test_without_a_limit_nobody_is_counted() -> None:
    admission = Admission(Settings())
    assert {await admission.admit(PREDICT, *asked_by()) for _ in range(100)} == {Settings().request_timeout_seconds}


async def test_what_is_served_changes_nobody_without_admin_keys() -> None:
    with pytest.raises(NotFound, match="DEEPSERVE_ADMIN_KEYS"):
        await rules().admit(CHANGE, *asked_by(key="admin"))


async def test_only_a_valid_key_authenticates_a_request() -> None:
    admission = rules(api_keys="one", admin_keys="admin")
    for route, key in ((PREDICT, "one"), (CHANGE, "admin"), (PREDICT, "admin"), (CHANGE, "one"), (PREDICT, None)):
        request, call = asked_by(key=key)
        with suppress(Unauthorized):
            await admission.admit(route, request, call)
        assert call.authenticated == ((route, key) in ((PREDICT, "one"), (CHANGE, "admin")))
    request, call = asked_by()
    await rules().admit(PREDICT, request, call)
    assert not call.authenticated, "without keys nobody is"


async def test_who_carries_a_valid_key_is_authenticated_over_the_limit_too() -> None:
    admission = rules(api_keys="one")
    while await passes(admission, asked_by(key="one")):
        pass
    request, call = asked_by(key="one")
    assert not await passes(admission, (request, call))
    assert call.authenticated
