"""`make capacity`: how many replicas, cores and how much money some traffic takes, and what an autoscaler makes of it.

It starts from what `make knee` has measured: what a request costs at the knee, how much requests differ, and how long
a start takes. How far the M/G/k queue foresees the knee that was measured is printed first, and what it promises too
much is taken off every plan. Then traffic that changes runs through the autoscalers that are deployed.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from load_tests.capacity.autoscaler import HPA, KEDA
from load_tests.capacity.fleet import Replica, fixed, simulate
from load_tests.capacity.plan import Cost, plan
from load_tests.capacity.report import HEADS, Scaled, plot, report
from load_tests.capacity.traffic import TRAFFIC
from load_tests.knee.result import read
from load_tests.machine import OUT
from load_tests.questions import TASKS

MAX_WAITING = 1024
"""DEEPSERVE_MAX_QUEUE_ROWS unless set."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the check, the plans and the table; writes `capacity-TASK.json` and `.png`."""
    options = _options(arguments)
    cost = Cost.of(read(options.out, options.task))
    bound = cost.bound if options.slo_ms is None else options.slo_ms / 1e3
    try:
        plans = [plan(cost, rate, bound, options.price) for rate in options.rates]
    except ValueError as error:
        raise SystemExit(str(error)) from error
    scaled = scale(cost, options.peak or 5 * cost.knee, options.pull_seconds)
    print("\n".join(report(cost, plans, scaled, bound, options.price)))
    figures = {
        "knee": {"measured": cost.knee, "foreseen": cost.foreseen_knee},
        "plans": [asdict(one) for one in plans],
        "scaled": [dict(zip(HEADS, one.row(bound, options.price), strict=True)) for one in scaled],
    }
    out = options.out / f"capacity-{options.task}.json"
    out.write_text(json.dumps(figures, indent=1) + "\n")
    plot(scaled, bound, out.with_suffix(".png"))
    print(f"\n{out}, {out.with_suffix('.png')}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make capacity", description=__doc__)
    parser.add_argument("--task", choices=TASKS, default="digits")
    parser.add_argument("--rates", type=float, nargs="+", default=[100.0, 1000.0, 10000.0], help="requests a second")
    parser.add_argument("--slo-ms", type=float, help="p99; unless given, that of the knee")
    parser.add_argument("--price", type=float, default=0.04, help="of a core an hour, in any money")
    parser.add_argument("--peak", type=float, help="requests a second of a day; unless given, five knees")
    parser.add_argument("--pull-seconds", type=float, default=15.0, help="to schedule a replica and pull its image")
    parser.add_argument("--out", type=Path, default=OUT, help="folder with knee-TASK.json")
    return parser.parse_args(arguments)


def scale(cost: Cost, peak: float, pull_seconds: float) -> list[Scaled]:
    """Each kind of traffic, with that many requests a second at its peak, under each autoscaler and without one."""
    replica = Replica(cost.knee, cost.seconds_to_ready + pull_seconds, MAX_WAITING)
    most = math.ceil(peak / cost.knee / 0.7) + 1
    results = []
    for traffic, curve in TRAFFIC.items():
        rate = curve(peak)
        for name, rules in (("HPA, CPU", HPA), ("KEDA, rows and CPU", KEDA)):
            results.append(Scaled(traffic, name, simulate(rate, replica, replace(rules, most=max(most, rules.most)))))
        results.append(
            Scaled(traffic, "nobody, enough for the peak", fixed(rate, replica, math.ceil(peak / cost.knee)))
        )
    return results


if __name__ == "__main__":
    main()
