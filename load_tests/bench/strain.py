"""Deepserve under strain: after a burst, past the knee, and with a second worker."""

import time
from statistics import median

from load_tests.bench.load import Load
from load_tests.bench.results import BATCHED, Strain
from load_tests.bench.rig import Rig
from load_tests.bench.scenarios import Scenario
from load_tests.subjects import deepserve

ROUNDS = 3
AFTER_BURST_SECONDS = 10
WIDE = 256
"""Connections past the knee."""
ROOM = 128
"""Rows that may wait, when requests come at twice the pace that they can be answered at."""


def strain(rig: Rig, scenario: Scenario) -> Strain:
    """Measures all of it, on the same requests as the rest."""
    narrow, wide, overloads, two_workers = [], [], [], []
    both = rig.with_two_server_cores()
    with (
        rig.trying(deepserve(scenario.route), scenario) as usual,
        rig.trying(deepserve(scenario.route, max_queue_rows=str(ROOM)), scenario) as small,
        both.trying(deepserve(scenario.route, workers="2"), scenario) as double,
    ):
        for _ in range(ROUNDS):
            narrow.append(usual.load(BATCHED))
            wide.append(usual.load(WIDE))
            overloads.append(small.overload(2 * median(load.per_second for load in narrow), WIDE))
            two_workers.append(_without_the_client(double.load(BATCHED), both))
        before = usual.load(1)
        usual.load(WIDE)
        time.sleep(AFTER_BURST_SECONDS)
        after = usual.load(1)
    return Strain(narrow, wide, overloads, two_workers, before, after)


def _without_the_client(load: Load, rig: Rig) -> float:
    """Requests a second of a server that keeps its cores busy, had the client not taken its share of them."""
    shared = set(rig.server_cores) & set(rig.client_cores)
    taken = load.client_cpu_seconds / load.seconds if shared else 0.0
    cores = len(rig.server_cores)
    return load.per_second * cores / (cores - taken)
