"""The queueing formulas, against exact results and against a queue that is played through."""

import heapq
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from load_tests.capacity.queueing import Seconds, Station, erlang_c, fewest, pooled, separate

QUANTILES = (np.arange(4000) + 0.5) / 4000
EXPONENTIAL: Seconds = -np.log1p(-QUANTILES)
"""Service with a mean of a second."""
CONSTANT: Seconds = np.ones(10)
MIXED: Seconds = np.array([0.5] * 7 + [2.0] + [1.0] * 2)

servers = st.integers(1, 40)
busy = st.floats(0.05, 0.97)


def exact_erlang_c(k: int, load: float) -> float:
    """By its definition."""
    terms = [load**n / math.factorial(n) for n in range(k)]
    last = load**k / math.factorial(k) * k / (k - load)
    return last / (sum(terms) + last)


@given(k=servers, share=busy)
def test_the_chance_to_wait_is_erlangs(k: int, share: float) -> None:
    assert erlang_c(k, share * k) == pytest.approx(exact_erlang_c(k, share * k), rel=1e-9)


@given(k=servers, share=st.floats(0.05, 0.9), bound=st.floats(1.0, 30.0))
def test_the_share_of_late_answers_in_m_m_k_is_exact(k: int, share: float, bound: float) -> None:
    load = share * k
    idle = k - 1 - load  # how much sooner a wait ends than a service
    assume(abs(idle) > 1e-3)
    exact = math.exp(-bound) * (1 - exact_erlang_c(k, load) * math.expm1(-idle * bound) / idle)
    assert Station(k, EXPONENTIAL).late(load, bound) == pytest.approx(exact, rel=0.05, abs=2e-3)


@given(share=busy)
def test_the_mean_wait_in_m_d_1_is_pollaczeks_and_khinchines(share: float) -> None:
    station = Station(1, CONSTANT)
    waiting, after_another_second = station.late(share, 1.0), station.late(share, 2.0)
    mean = waiting / math.log(waiting / after_another_second)  # of what ends exponentially
    assert mean == pytest.approx(share / (2 * (1 - share)))


@pytest.mark.parametrize("service", [CONSTANT, MIXED, EXPONENTIAL])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("share", [0.7, 0.9])
def test_a_queue_that_is_played_through_agrees(k: int, share: float, service: Seconds) -> None:
    station = Station(k, service)
    rate = share * station.most
    bound = float(np.quantile(played(station, rate, 200_000), 0.97))
    assert station.late(rate, bound) == pytest.approx(0.03, rel=0.5)


def played(station: Station, rate: float, requests: int) -> Seconds:
    """How long requests at random moments take, first come first served."""
    generator = np.random.default_rng(0)
    arrivals = np.cumsum(generator.exponential(1 / rate, requests))
    services = generator.choice(station.service, requests)
    free = [0.0] * station.servers
    waits = np.empty(requests)
    for number, (arrival, service) in enumerate(zip(arrivals.tolist(), services.tolist(), strict=True)):
        start = max(arrival, free[0])
        heapq.heapreplace(free, start + service)
        waits[number] = start - arrival
    return (waits + services)[requests // 10 :]


@given(k=servers, bound=st.floats(3.0, 50.0), service=st.sampled_from([CONSTANT, MIXED]))
def test_the_highest_rate_keeps_the_bound_and_no_higher_one_does(k: int, bound: float, service: Seconds) -> None:
    station = Station(k, service)
    rate = station.highest_rate(bound)
    assert 0 < rate < station.most
    assert station.late(rate, bound) <= 0.01
    higher = min(rate + 2e-4 * station.most, station.most * (1 - 1e-9))
    assert station.late(higher, bound) > 0.01


@given(rate=st.floats(0.1, 200), bound=st.floats(3.0, 20.0))
def test_a_shared_queue_never_takes_more_servers(rate: float, bound: float) -> None:
    together, apart = pooled(MIXED, rate, bound), separate(MIXED, rate, bound)
    assert rate * MIXED.mean() < together <= apart
    assert Station(together, MIXED).late(rate, bound) <= 0.01


@given(needed=st.integers(1, 5000))
def test_the_fewest_is_the_first_that_is_enough(needed: int) -> None:
    assert fewest(lambda number: number >= needed) == needed


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="2 servers cannot carry a load of 2"):
        erlang_c(2, 2.0)
    with pytest.raises(ValueError, match="without any queue"):
        pooled(MIXED, 1.0, bound=1.5)
    assert Station(1, MIXED).highest_rate(1.5) == 0
