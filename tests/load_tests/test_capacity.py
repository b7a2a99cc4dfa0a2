"""Capacity: what is planned keeps the bound, what the queue promised too much is taken off, and the report is whole."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from load_tests.capacity.__main__ import main
from load_tests.capacity.plan import Cost, plan
from load_tests.capacity.queueing import Station
from load_tests.capacity.report import HEADS
from load_tests.knee.result import Knee, write
from tests.load_tests.test_knee import CALM, KNEE

SERVICE = np.array([0.001] * 7 + [0.003])


def cost(knee: float) -> Cost:
    return Cost("digits", SERVICE, knee, bound=0.05, seconds_to_ready=4.5)


def knee(cpu_us: float | None = 300.0) -> Knee:
    rounds = [replace(CALM, cpu_us=cpu_us)] * 3
    return replace(KNEE, per_second=2500.0, at_knee=rounds, lone_ms=[0.4] * 7 + [1.2])


def test_a_plan_keeps_the_bound_on_servers_that_are_as_slow_as_measured() -> None:
    measured = cost(0.8 * cost(1).foreseen_knee)
    made = plan(measured, 5000, 0.05, price=0.1)
    assert measured.yielded == pytest.approx(0.8)
    assert Station(made.pooled, SERVICE / 0.8).late(5000, 0.05) <= 0.01
    assert made.separate * measured.knee >= 5000 * 0.999
    assert (made.separate - 1) * measured.knee < 5000 * 1.001
    assert made.month == pytest.approx(made.separate * 0.1 * 730)


def test_a_knee_above_what_the_queue_foresees_promises_nothing() -> None:
    exact = plan(cost(cost(1).foreseen_knee), 5000, 0.05, price=0.1)
    assert plan(cost(2 * cost(1).foreseen_knee), 5000, 0.05, price=0.1) == exact


def test_the_service_has_its_mean_from_the_knee_and_its_spread_from_lone_requests() -> None:
    measured = Cost.of(knee())
    assert measured.service.mean() == pytest.approx(300e-6)
    assert measured.service.max() / measured.service.min() == pytest.approx(3)
    assert (measured.knee, measured.bound, measured.seconds_to_ready) == (2500, 0.05, 4.5)


def test_the_report_has_plans_scalers_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(knee(), tmp_path)
    main(["--out", str(tmp_path), "--rates", "100", "10000"])
    printed = capsys.readouterr().out
    assert "knee of one core: 2,500/s measured" in printed
    assert "| 10,000 |" in printed
    figures = json.loads((tmp_path / "capacity-digits.json").read_text())
    assert [one["rate"] for one in figures["plans"]] == [100, 10000]
    assert {(one["traffic"], one["scaled by"][:4]) for one in figures["scaled"]} == {
        (traffic, scaler) for traffic in ("day", "spike") for scaler in ("HPA,", "KEDA", "nobo")
    }
    assert all(one.keys() == set(HEADS) for one in figures["scaled"])
    assert (tmp_path / "capacity-digits.png").stat().st_size > 10_000


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"knee-digits.json is not there: make knee OPTIONS='--tasks digits'"):
        main(["--out", str(tmp_path)])
    write(knee(cpu_us=None), tmp_path)
    with pytest.raises(SystemExit, match="without --url"):
        main(["--out", str(tmp_path)])
    write(knee(), tmp_path)
    with pytest.raises(SystemExit, match="without any queue"):
        main(["--out", str(tmp_path), "--slo-ms", "0.1"])
