"""The knee: requests are sent when they are due, the search finds the rate, and figures that mislead are named."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.histograms import Histogram
from load_tests.knee import PRECISION, Knee, Round, highest, show
from load_tests.open_loop import evenly, offer, poisson
from load_tests.queueing import Station

WORK = 0.05
ANSWER = b"HTTP/1.1 200 OK\r\nX-Request-ID: one\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def slow_server() -> AsyncIterator[str]:
    """Takes `WORK` seconds for each request on a connection."""

    handlers = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n") != b"HANG UP\r\n\r\n":
                await asyncio.sleep(WORK)
                writer.write(ANSWER)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*handlers)


@pytest.mark.anyio
async def test_time_counts_from_when_a_request_was_due_not_from_when_it_could_be_sent() -> None:
    async with slow_server() as url:
        dues = await offer(url, repeat(b"GET\r\n\r\n"), np.zeros(4), connections=1)
    for place, due in enumerate(dues, 1):
        assert due.end is not None
        assert due.seconds >= place * WORK
        assert due.end.request_id == "one"
        assert due.end.body == b"ok"


@pytest.mark.anyio
async def test_who_does_not_wait_for_a_connection_is_not_sent() -> None:
    async with slow_server() as url:
        dues = await offer(url, repeat(b"GET\r\n\r\n"), np.zeros(4), connections=3, patient=False)
    assert [due.sent for due in dues] == [True, True, True, False]
    assert math.isinf(dues[-1].seconds)


@pytest.mark.anyio
async def test_a_lost_answer_takes_for_ever() -> None:
    async with slow_server() as url:
        (due,) = await offer(url, repeat(b"HANG UP\r\n\r\n"), np.zeros(1), connections=1, last_answer_seconds=0.1)
    assert due.sent
    assert math.isinf(due.seconds)


@given(rate=st.floats(200, 2000), seed=st.integers(0, 1000))
def test_random_moments_have_their_rate_and_do_not_know_of_each_other(rate: float, seed: int) -> None:
    moments = poisson(rate, 10.0, np.random.default_rng(seed))
    gaps = np.diff(moments)
    assert len(moments) == pytest.approx(10 * rate, abs=6 * math.sqrt(10 * rate))
    assert (gaps >= 0).all()
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.15)


def test_even_moments_are_evenly_apart() -> None:
    assert evenly(4, 1).tolist() == [0, 0.25, 0.5, 0.75]


@given(bound=st.floats(5.0, 100.0), start=st.floats(0.01, 20.0))
def test_the_search_finds_the_rate_of_a_queue_that_is_known(bound: float, start: float) -> None:
    service = -np.log1p(-(np.arange(1000) + 0.5) / 1000)
    station = Station(1, service / service.mean() / 1000)

    def p99(rate: float) -> float:
        """Of M/M/1, in milliseconds."""
        return math.log(100) / (station.most - rate) * 1e3 if rate < station.most else math.inf

    exact = station.most - math.log(100) / bound * 1e3
    if exact > 2:
        found = highest(p99, bound, start * exact)
        assert exact / PRECISION <= found <= exact


def test_a_server_that_never_holds_ends_the_search() -> None:
    with pytest.raises(SystemExit, match="not even one request a second"):
        highest(lambda _: math.inf, 50, start=100)


def histogram(values: np.ndarray, bounds: tuple[float, ...] = (0.005, 0.01, 0.025, 0.05, 0.1, math.inf)) -> Histogram:
    return Histogram({bound: float((values <= bound).sum()) for bound in bounds}, float(values.sum()))


def test_what_came_between_two_scrapes_is_their_difference() -> None:
    early, late = np.array([0.004, 0.03]), np.array([0.02] * 98 + [0.04] * 2)
    between = histogram(np.concatenate([early, late])).since(histogram(early))
    assert between.buckets == histogram(late).buckets
    assert between.count == 100
    assert between.mean == pytest.approx(late.mean())
    assert between.quantile(0.5) == (0.01, 0.025)
    assert between.quantile(0.99) == (0.025, 0.05)


@given(shift=st.floats(0, 0.02), seed=st.integers(0, 100))
def test_how_much_later_a_client_sees_answers_is_found_in_buckets(shift: float, seed: int) -> None:
    values = np.random.default_rng(seed).gamma(2, 0.01, 5000)
    assert histogram(values).apart(values + shift) == pytest.approx(shift, abs=0.003)


CALM = Round(
    rate=100,
    requests=200,
    p50=5,
    p99=45,
    failed=0,
    fault=None,
    late=0.1,
    server_requests=200,
    server_p99=(25, 50),
    server_mean=6,
    mean=7,
    apart=2,
    cpu_us=300,
    others=0.0,
)
KNEE = Knee("digits", 50, 100, [CALM] * 3, [(100, 45), (120, 60)], 5000, 110, [1.0, 2.0], 4.5)


def test_a_knee_is_shown_beside_the_servers_own_histogram() -> None:
    shown = show(KNEE)
    assert KNEE.faults() == []
    assert "digits: 100 requests a second with a p99 of at most 50 ms" in shown
    assert "| p99 ms | 45.0 | | 25 to 50 |" in shown
    assert "300 us of CPU time" in shown
    assert "the generator alone sends 5,000 requests" in shown
    assert "TRUSTED" not in shown


@pytest.mark.parametrize(
    ("disturbed", "by"), [({}, 0.02), ({"others": 0.06}, 2), ({"late": 10.0}, 2), ({"others": None, "late": 5.0}, 1)]
)
def test_a_round_tells_how_much_other_programs_have_disturbed_it(disturbed: dict[str, float], by: float) -> None:
    assert replace(CALM, **disturbed).disturbed == pytest.approx(by)


@pytest.mark.parametrize(
    ("knee", "said"),
    [
        (replace(KNEE, at_knee=[replace(CALM, fault="digits-3: no answer", failed=1)]), "digits-3: no answer"),
        (replace(KNEE, at_knee=[CALM, *[replace(CALM, p99=55.0)] * 2]), "asked again, the knee has a p99 of 55.0 ms"),
        (replace(KNEE, at_knee=[replace(CALM, apart=11)]), "11.0 ms apart"),
        (replace(KNEE, at_knee=[CALM, replace(CALM, server_requests=199)]), "has not counted every request"),
        (replace(KNEE, at_knee=[replace(CALM, others=0.2)]), "other programs had 20%"),
        (replace(KNEE, generator_per_second=140.0), "the generator sends no more than 140/s itself"),
    ],
)
def test_a_figure_that_misleads_is_named(knee: Knee, said: str) -> None:
    assert any(said in fault for fault in knee.faults())
    assert f"NOT TO BE TRUSTED: {knee.faults()[0]}" in show(knee)
