"""A client may make so many requests a second and so many at once, whichever worker it asks, and others do not mind."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.rate_limit import RateLimit
from service.errors import TooManyRequests

RATES = st.floats(0.01, 1e4)
BURSTS = st.integers(1, 50)
PAUSES = st.floats(0, 5)
CLIENTS = st.sampled_from([b"one", b"two", b"three"])


def test_a_client_has_its_burst_at_once_and_then_its_rate(tmp_path: Path) -> None:
    limit = RateLimit(tmp_path / "rates", rate=10, burst=3)
    assert [limit.wait(b"one", 100.0) for _ in range(4)] == [0, 0, 0, pytest.approx(0.1)]
    assert limit.wait(b"one", 100.05) == pytest.approx(0.05)
    assert limit.wait(b"two", 100.05) == 0
    assert [limit.wait(b"one", 100.11), limit.wait(b"one", 100.11)] == [0, pytest.approx(0.09)]
    assert [limit.wait(b"one", 200.0) for _ in range(4)] == [0, 0, 0, pytest.approx(0.1)]


def test_the_table_has_all_its_room_from_the_start(tmp_path: Path) -> None:
    RateLimit(tmp_path / "rates", rate=10, burst=3)
    facts = (tmp_path / "rates").stat()
    assert facts.st_blocks * 512 >= facts.st_size > 0, "on a full disk the first write to a hole would kill the worker"


@given(rate=RATES, burst=BURSTS, asked=st.lists(st.tuples(PAUSES, CLIENTS, st.booleans()), max_size=200))
def test_no_stretch_of_time_has_more_than_rate_and_burst_allow(
    rate: float, burst: int, asked: list[tuple[float, bytes, bool]]
) -> None:
    with TemporaryDirectory() as folder:
        workers = [RateLimit(Path(folder) / "rates", rate, burst) for _ in range(2)]
        now = 1e6
        passed: dict[bytes, list[float]] = {}
        for pause, client, second in asked:
            now += pause / rate
            wait = workers[second].wait(client, now)
            if wait == 0:
                passed.setdefault(client, []).append(now)
            else:
                assert workers[not second].wait(client, now + 0.99 * wait) > 0, "it is told to wait longer than it must"
    for times in passed.values():
        for first, begin in enumerate(times):
            for count, end in enumerate(times[first:], start=1):
                assert count <= rate * (end - begin) + burst + 1e-3


@given(rate=RATES, burst=BURSTS, pauses=st.lists(PAUSES, max_size=100))
def test_one_who_waits_as_long_as_it_is_told_is_let_in(rate: float, burst: int, pauses: list[float]) -> None:
    with TemporaryDirectory() as folder:
        limit = RateLimit(Path(folder) / "rates", rate, burst)
        now = 1e6
        for pause in pauses:
            now += pause / rate
            if wait := limit.wait(b"one", now):
                now += wait + 1e-6
                assert limit.wait(b"one", now) == 0


def test_any_number_of_clients_take_no_more_room_and_each_is_let_in(tmp_path: Path) -> None:
    limit = RateLimit(tmp_path / "rates", rate=1, burst=1)
    size = (tmp_path / "rates").stat().st_size
    assert all(limit.wait(b"%d" % client, 0.0) == 0 for client in range(100_000))
    assert (tmp_path / "rates").stat().st_size == size < 1_000_000


def test_a_flood_of_other_clients_does_not_make_one_forgotten(tmp_path: Path) -> None:
    limit = RateLimit(tmp_path / "rates", rate=1, burst=10)
    now = 0.0
    assert [limit.wait(b"greedy", now) > 0 for _ in range(11)] == [False] * 10 + [True]
    for client in range(5000):
        limit.wait(b"%d" % client, now)
    assert limit.wait(b"greedy", now) > 0


def test_a_refusal_says_after_how_many_whole_seconds_to_come_again(tmp_path: Path) -> None:
    for rate, least, most in ((100.0, 1, 1), (0.25, 3, 4)):
        limit = RateLimit(tmp_path / f"rates of {rate}", rate, burst=1)
        limit.check(b"one")
        with pytest.raises(TooManyRequests) as refused:
            limit.check(b"one")
        assert least <= refused.value.retry_after_seconds <= most
