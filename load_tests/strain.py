"""Deepserve under strain: after a burst, past the knee, and with a second worker."""

import time

from load_tests.load import Load
from load_tests.results import BATCHED, Strain
from load_tests.rig import Rig
from load_tests.scenarios import Scenario
from load_tests.subjects import deepserve

AFTER_BURST_SECONDS = 10
WIDE = 256
"""Connections past the knee."""
ROOM = 128
"""Rows that may wait, when requests come at twice the pace that they can be answered at."""


def strain(rig: Rig, scenario: Scenario) -> Strain:
    """Measures all of it, on the same requests as the rest."""
    before, peak, wide, after = _burst(rig, scenario)
    small = deepserve(scenario.route, max_queue_rows=str(ROOM))
    with rig.serving(small, scenario) as server:
        overload = rig.overload(server, small, scenario, 2 * peak.per_second, WIDE)
    return Strain(
        p50_before_ms=before.p50_ms,
        p50_after_ms=after.p50_ms,
        peak_per_second=peak.per_second,
        wide=wide,
        overload=overload,
        workers_gain=_two_workers(rig, scenario) / peak.per_second,
    )


def _burst(rig: Rig, scenario: Scenario) -> tuple[Load, Load, Load, Load]:
    """One client, `BATCHED` connections, `WIDE` connections, and one client again some seconds later."""
    subject = deepserve(scenario.route)
    with rig.serving(subject, scenario) as server:
        before = rig.load(server, subject, scenario, 1)
        peak = rig.load(server, subject, scenario, BATCHED)
        wide = rig.load(server, subject, scenario, WIDE)
        time.sleep(AFTER_BURST_SECONDS)
        return before, peak, wide, rig.load(server, subject, scenario, 1)


def _two_workers(rig: Rig, scenario: Scenario) -> float:
    """Requests a second of two workers on two cores, had the client not taken its share of them."""
    both = rig.wide()
    subject = deepserve(scenario.route, workers="2")
    with both.serving(subject, scenario) as server:
        load = both.load(server, subject, scenario, BATCHED)
    shared = set(both.server_cores) & set(both.client_cores)
    taken = load.client_cpu_seconds / load.seconds if shared else 0.0
    return load.per_second * 2 / (2 - taken)
