"""The autoscaler's simulation: it plays by the rules, loses no request, and replicas come no sooner than they can."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from load_tests.capacity.autoscaler import HPA, KEDA, Rules, Scaler
from load_tests.capacity.fleet import Replica, fixed, simulate
from load_tests.capacity.traffic import TRAFFIC, Series, day, spike
from tests.paths import ROOT

COMPONENTS = ROOT / "deploy" / "kubernetes" / "components"
REPLICA = Replica(per_second=100.0, ready_seconds=20.0, most_waiting=200.0)

curves = st.lists(st.floats(0, 1500), min_size=2, max_size=12).map(
    lambda points: np.interp(np.arange(900), np.linspace(0, 900, len(points)), points)
)
rules = st.sampled_from([HPA, KEDA, replace(KEDA, cpu=None)])


@given(rate=curves, by=rules)
def test_every_request_is_answered_refused_or_waits_and_replicas_stay_within_bounds(rate: Series, by: Rules) -> None:
    seen = simulate(rate, REPLICA, by)
    answered_at_most = seen.ready.sum() * REPLICA.per_second
    still_waiting = seen.ready[-1] * REPLICA.most_waiting
    assert rate.sum() - seen.dropped.sum() <= answered_at_most + still_waiting + 1e-6
    assert (seen.dropped >= 0).all()
    assert (seen.lag <= REPLICA.most_waiting / REPLICA.per_second + 1e-9).all()
    assert (by.least <= seen.ready).all()
    assert (seen.ready <= seen.paid).all()
    assert (seen.paid <= by.most).all()


@given(rate=curves, by=rules)
def test_it_grows_and_shrinks_no_faster_than_its_policies(rate: Series, by: Rules) -> None:
    paid = simulate(rate, REPLICA, by).paid
    for now in range(by.grow_seconds, len(paid)):
        assert paid[now] <= 2 * paid[now - by.grow_seconds : now].max()
    for now in range(by.shrink_seconds, len(paid)):
        assert paid[now] >= paid[now - by.shrink_seconds] - by.shrink_by


@pytest.mark.parametrize("by", [HPA, KEDA])
def test_steady_traffic_gets_what_it_needs_and_keeps_it(by: Rules) -> None:
    seen = simulate(np.full(1800, 400.0), REPLICA, by)
    assert seen.dropped.sum() == 0
    assert seen.lag.max() == 0
    assert set(seen.ready.tolist()) == {6.0}, "400 of 100 each, at 70 %"


def test_a_replica_serves_no_sooner_than_it_can_start() -> None:
    rate = np.concatenate([np.full(300, 140.0), np.full(300, 400.0)])
    seen = simulate(rate, REPLICA, HPA)
    served = int(np.argmax(seen.ready > 2))
    paid = int(np.argmax(seen.paid > 2))
    assert 300 <= paid < served
    assert served - paid == pytest.approx(REPLICA.ready_seconds, abs=1)


@pytest.mark.parametrize("by", [HPA, KEDA])
def test_slower_starts_refuse_more_of_a_spike(by: Rules) -> None:
    refused = [
        simulate(spike(900), replace(REPLICA, ready_seconds=seconds), by).dropped_share for seconds in (5, 30, 90)
    ]
    assert 0 < refused[0] < refused[1] < refused[2]


def test_it_waits_before_it_shrinks() -> None:
    rate = np.concatenate([np.full(300, 600.0), np.full(900, 50.0)])
    seen = simulate(rate, REPLICA, HPA)
    first = int(np.argmax(seen.paid < seen.paid[0]))
    assert first >= 300 + HPA.shrink_window - HPA.sync - HPA.scrape


def test_starting_replicas_count_as_idle_so_that_it_does_not_overshoot() -> None:
    assert Scaler(HPA).decide(0, replicas=4, ready=2, cpu=2.0, waiting=0) == 4
    assert Scaler(HPA).decide(0, replicas=2, ready=2, cpu=2.0, waiting=0) == 3


def test_what_nobody_scales_costs_its_number_of_hours() -> None:
    seen = fixed(day(500), REPLICA, 5)
    assert seen.replica_hours == pytest.approx(5 * 24)
    assert seen.dropped_share == seen.late_share(0.05) == 0


@pytest.mark.parametrize("traffic", TRAFFIC)
def test_traffic_peaks_where_it_is_said_to(traffic: str) -> None:
    rate = TRAFFIC[traffic](700.0)
    assert rate.max() == pytest.approx(700)
    assert rate.min() > 0


def manifest(path: str) -> Any:
    return yaml.safe_load((COMPONENTS / path).read_text())["spec"]


def test_the_rules_are_those_that_are_deployed() -> None:
    hpa, keda = manifest("hpa/horizontalpodautoscaler.yaml"), manifest("keda/scaledobject.yaml")
    triggers = {trigger["type"]: trigger["metadata"] for trigger in keda["triggers"]}
    (cpu,) = hpa["metrics"]
    assert rules_of(hpa["minReplicas"], hpa["maxReplicas"], hpa["behavior"]) == replace(HPA, cpu=None)
    assert cpu["resource"]["target"]["averageUtilization"] / 100 == HPA.cpu
    behavior = keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert rules_of(keda["minReplicaCount"], keda["maxReplicaCount"], behavior) == replace(
        KEDA, cpu=None, queue_rows=None
    )
    assert float(triggers["cpu"]["value"]) / 100 == KEDA.cpu
    assert float(triggers["prometheus"]["threshold"]) == KEDA.queue_rows
    assert "[1m]" in triggers["prometheus"]["query"]
    assert KEDA.queue_window == 60


def rules_of(least: int, most: int, behavior: dict[str, Any]) -> Rules:
    """As a manifest has them."""
    (grow,), (shrink,) = behavior["scaleUp"]["policies"], behavior["scaleDown"]["policies"]
    assert (grow["type"], shrink["type"]) == ("Percent", "Pods")
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    return Rules(
        least=least,
        most=most,
        cpu=None,
        grow_percent=grow["value"],
        grow_seconds=grow["periodSeconds"],
        shrink_by=shrink["value"],
        shrink_seconds=shrink["periodSeconds"],
        shrink_window=behavior["scaleDown"]["stabilizationWindowSeconds"],
    )
