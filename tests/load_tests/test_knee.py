"""The knee: the search finds the rate, luck does not count, and figures that mislead are named."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.capacity.queueing import Station
from load_tests.knee.result import Knee, read, show, write
from load_tests.knee.round import Round
from load_tests.knee.search import PRECISION, Search, highest

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


class Lucky:
    """Keeps the bound up to 100 requests a second, and up to 120 as long as its luck lasts; of three rounds other
    programs disturb two.
    """

    luck = 6

    def round(self, rate: float, seed: int) -> Round:
        self.luck -= 100 < rate <= 120
        kept = rate <= 100 or (rate <= 120 and self.luck >= 0)
        return replace(CALM, rate=rate, p99=45.0 if kept else 55.0, others=0.0 if seed % 3 == 2 else 0.5)


def test_a_rate_that_has_held_by_luck_is_not_the_knee() -> None:
    found = Search(Lucky(), bound=50, rounds=3).run(start=60)
    assert {(120, 45), (120, 55)} <= set(found.tried)
    assert 100 / PRECISION <= found.rate <= 100
    assert [one.p99 for one in found.rounds] == [45] * 3


def test_rounds_that_other_programs_disturb_are_taken_again() -> None:
    found = Search(Lucky(), bound=50, rounds=3).run(start=60)
    assert [one.others for one in found.rounds] == [0.0] * 3


def test_a_server_that_never_holds_ends_the_search() -> None:
    with pytest.raises(SystemExit, match="not even one request a second"):
        highest(lambda _: math.inf, 50, start=100)


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
        (replace(KNEE, at_knee=[replace(CALM, apart=11)]), "11.0 ms apart"),
        (replace(KNEE, at_knee=[CALM, replace(CALM, server_requests=199)]), "has not counted every request"),
        (replace(KNEE, at_knee=[replace(CALM, others=0.2)]), "other programs had 20%"),
        (replace(KNEE, generator_per_second=140.0), "the generator sends no more than 140/s itself"),
    ],
)
def test_a_figure_that_misleads_is_named(knee: Knee, said: str) -> None:
    assert any(said in fault for fault in knee.faults())
    assert f"NOT TO BE TRUSTED: {knee.faults()[0]}" in show(knee)


def test_a_knee_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    write(KNEE, tmp_path)
    assert read(tmp_path, "digits") == KNEE
