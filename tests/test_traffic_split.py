"""A traffic split takes a share of the requests, and always the same ones."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest

from service.context import new_request_id
from service.errors import StartupError
from service.settings import settings
from service.traffic_split import TrafficSplit, share_of

IDS = {
    "the server's own": new_request_id,
    "short numbers": iter(map(str, range(100_000))).__next__,
}


@pytest.fixture(params=IDS)
def ids(request: pytest.FixtureRequest) -> list[str]:
    draw: Callable[[], str] = IDS[request.param]
    return [draw() for _ in range(10_000)]


def test_requests_are_spread_evenly(ids: list[str]) -> None:
    for purpose in ("canary", "shadow"):
        assert kstest([share_of(each, purpose) for each in ids], "uniform").pvalue > 1e-6


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_a_split_takes_its_share(ids: list[str], share: float) -> None:
    taken = sum(TrafficSplit(version="2", share=share).takes(each, "canary") for each in ids)
    assert binomtest(taken, len(ids), share).pvalue > 1e-6


def test_a_larger_share_keeps_the_requests_of_a_smaller_one(ids: list[str]) -> None:
    small, large = TrafficSplit(version="2", share=0.1), TrafficSplit(version="2", share=0.2)
    assert all(large.takes(each, "canary") for each in ids if small.takes(each, "canary"))


def test_canary_and_shadow_choose_independently(ids: list[str]) -> None:
    half = TrafficSplit(version="2", share=0.5)
    both = sum(half.takes(each, "canary") and half.takes(each, "shadow") for each in ids)
    assert binomtest(both, len(ids), 0.25).pvalue > 1e-6


@given(st.text(max_size=128))
def test_the_share_may_be_0_or_1(request_id: str) -> None:
    assert 0 <= share_of(request_id, "canary") < 1
    assert not TrafficSplit(version="2", share=0).takes(request_id, "canary")
    assert TrafficSplit(version="2", share=1).takes(request_id, "canary")


def test_the_hash_of_a_request_id_is_stable() -> None:
    """Else those who send an id again would meet another version after an update."""
    assert share_of("a", "canary") == pytest.approx(0.867075, abs=1e-6)
    assert share_of("a", "shadow") == pytest.approx(0.003730, abs=1e-6)


@pytest.mark.parametrize("name", ["CANARY", "SHADOW"])
@pytest.mark.parametrize(
    ("value", "place"),
    [
        ('{"digits": {"version": "2", "share": 1.1}}', "digits.share"),
        ('{"digits": {"version": "2", "share": -0.1}}', "digits.share"),
        ('{"digits": {"version": "2", "share": NaN}}', "digits.share"),
        ('{"digits": {"version": "latest", "share": 0.1}}', "digits.version"),
        ('{"digits": {"version": "2"}}', "digits.share"),
        ('{"digits": {"version": "2", "share": 0.1, "shares": 0.1}}', "digits.shares"),
        ('{"../digits": {"version": "2", "share": 0.1}}', "../digits"),
        ('{"digits": "2"}', "digits"),
        ("digits", ""),
        ("", ""),
    ],
)
def test_an_invalid_split_is_named_in_the_error(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, place: str
) -> None:
    monkeypatch.setenv(f"DEEPSERVE_{name}", value)
    with pytest.raises(StartupError, match=f"^DEEPSERVE_{name}: {place}"):
        settings.__wrapped__()


def test_splits_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSERVE_SHADOW", json.dumps({"digits": {"version": "1", "share": 0.5}}))
    assert settings.__wrapped__().shadow == {"digits": TrafficSplit(version="1", share=0.5)}
