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
    with rig.trying(deepserve(scenario.route), scenario) as trial:
        before = trial.load(1)
        peak = trial.load(BATCHED)
        wide = trial.load(WIDE)
        time.sleep(AFTER_BURST_SECONDS)
        after = trial.load(1)
    with rig.trying(deepserve(scenario.route, max_queue_rows=str(ROOM)), scenario) as trial:
        overload = trial.overload(2 * peak.per_second, WIDE)
    with rig.with_two_server_cores().trying(deepserve(scenario.route, workers="2"), scenario) as trial:
        two_workers = trial.load(BATCHED)
    return Strain(
        p50_before_ms=before.p50_ms,
        p50_after_ms=after.p50_ms,
        peak_per_second=peak.per_second,
        wide=wide,
        overload=overload,
        workers_gain=_without_the_client(two_workers, trial.rig) / peak.per_second,
    )


def _without_the_client(load: Load, rig: Rig) -> float:
    """Requests a second of a server that keeps its cores busy, had the client not taken its share of them."""
    shared = set(rig.server_cores) & set(rig.client_cores)
    taken = load.client_cpu_seconds / load.seconds if shared else 0.0
    cores = len(rig.server_cores)
    return load.per_second * cores / (cores - taken)
