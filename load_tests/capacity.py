"""`make capacity`: how many replicas, cores and how much money some traffic takes, and what an autoscaler makes of it.

It starts from what `make knee` has measured: what a request costs at the knee, how much requests differ, and how long
a start takes. The M/G/k queue of `load_tests.queueing` says which rate keeps the bound. How far it foresees the knee
that was measured is printed first, and what it promises too much is taken off every plan. Traffic that changes runs
through `load_tests.autoscaler`.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from load_tests.autoscaler import HPA, KEDA, TRAFFIC, Outcome, Replica, fixed, simulate
from load_tests.bench import OUT
from load_tests.questions import TASKS
from load_tests.queueing import Seconds, Station, pooled, separate

MOST_WAITING = 1024
"""DEEPSERVE_MAX_QUEUE_ROWS unless set."""
MONTH_HOURS = 730


@dataclass(frozen=True)
class Cost:
    """What `make knee` has measured of a task."""

    task: str
    service: Seconds
    """CPU seconds of a request on one core: its mean that at the knee, its spread that of lone requests."""
    knee: float
    """Requests a second that one core answered within the bound."""
    bound: float
    """Seconds, at p99."""
    seconds_to_ready: float

    @classmethod
    def read(cls, path: Path) -> "Cost":
        """From the file that `make knee` has written.

        Raises:
            SystemExit: it is not there, or of a server whose CPU time was not measured.
        """
        if not path.exists():
            raise SystemExit(
                f"{path} is not there: make knee OPTIONS='--tasks {path.stem.removeprefix('knee-')}' makes it"
            )
        measured: dict[str, Any] = json.loads(path.read_text())["knee"]
        spent = [one["cpu_us"] for one in measured["at_knee"] if one["cpu_us"] is not None]
        if not spent or measured["seconds_to_ready"] is None:
            raise SystemExit(f"{path} is of a server that make knee has not started: run it without --url")
        lone = np.array(measured["lone_ms"])
        return cls(
            task=measured["task"],
            service=lone / lone.mean() * float(np.median(spent)) / 1e6,
            knee=measured["per_second"],
            bound=measured["slo_ms"] / 1e3,
            seconds_to_ready=measured["seconds_to_ready"],
        )

    @property
    def foreseen_knee(self) -> float:
        """What the queue says that one core answers within the bound."""
        return Station(1, self.service).highest_rate(self.bound)

    @property
    def yielded(self) -> float:
        """The measured knee by the foreseen one."""
        return self.knee / self.foreseen_knee


@dataclass(frozen=True)
class Plan:
    """What some steady traffic takes, one core a replica."""

    rate: float
    pooled: int
    """Replicas, if a balancer sends each request where the fewest are under way."""
    separate: int
    """Replicas, if requests or connections are spread at random."""
    month: float
    """Money for the latter, a month."""


def plan(cost: Cost, rate: float, bound: float, price: float) -> Plan:
    """For `rate` requests a second, p99 within `bound` seconds, at a `price` of a core an hour.

    Raises:
        ValueError: not even a request alone is answered in time.
    """
    slowed = cost.service / min(1.0, cost.yielded)
    replicas = separate(slowed, rate, bound)
    return Plan(rate, pooled(slowed, rate, bound), replicas, replicas * price * MONTH_HOURS)


@dataclass(frozen=True)
class Scaled:
    """One way to scale under one kind of traffic."""

    traffic: str
    scaler: str
    outcome: Outcome

    def row(self, bound: float, price: float) -> list[str]:
        """Of the table."""
        one = self.outcome
        figures = [
            f"{one.ready.max():.0f}",
            f"{one.lag.max():.2f}",
            f"{one.dropped_share:.3%}",
            f"{one.late_share(bound):.3%}",
            f"{one.replica_hours:.1f}",
            f"{one.replica_hours * price:.2f}",
        ]
        return [self.traffic, self.scaler, *figures]


HEADS = ["traffic", "scaled by", "replicas", "longest lag s", "refused", "refused or late", "replica hours", "cost"]


def scale(cost: Cost, peak: float, pull_seconds: float) -> list[Scaled]:
    """Each kind of traffic, with that many requests a second at its peak, under each autoscaler and without one."""
    replica = Replica(cost.knee, cost.seconds_to_ready + pull_seconds, MOST_WAITING)
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the check, the plans and the table; writes `capacity-TASK.json` and `.png`."""
    options = _options(arguments)
    cost = Cost.read(options.out / f"knee-{options.task}.json")
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


def report(cost: Cost, plans: Sequence[Plan], scaled: Sequence[Scaled], bound: float, price: float) -> list[str]:
    """Lines of Markdown."""
    mean, spread = float(cost.service.mean()), Station(1, cost.service).variability
    return [
        f"{cost.task}: a request takes {mean * 1e6:,.0f} us of a core, squared variation {spread:.2f}",
        f"knee of one core: {cost.knee:,.0f}/s measured, {cost.foreseen_knee:,.0f}/s foreseen by M/G/1: "
        f"{cost.yielded:.0%}, which every plan takes into account",
        "",
        *_table(
            ["requests/s", "replicas, one queue", "replicas, a queue each", "cores", "cost a month"],
            [
                [f"{one.rate:,.0f}", str(one.pooled), str(one.separate), str(one.separate), f"{one.month:,.0f}"]
                for one in plans
            ],
        ),
        "",
        *_table(HEADS, [one.row(bound, price) for one in scaled]),
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


def plot(scaled: Sequence[Scaled], bound: float, path: Path) -> None:
    """For each kind of traffic: what came and what could be answered, replicas, and lag."""
    kinds = list(dict.fromkeys(one.traffic for one in scaled))
    figure = Figure(figsize=(7 * len(kinds), 8), layout="constrained")
    grid = figure.subplots(3, len(kinds), squeeze=False, sharex="col")
    for column, kind in zip(grid.T, kinds, strict=True):
        _draw(list(column), [one for one in scaled if one.traffic == kind], bound)
    figure.savefig(path, dpi=110)


def _draw(axes: list[Axes], scaled: Sequence[Scaled], bound: float) -> None:
    traffic, replicas, lag = axes
    traffic.set_title(scaled[0].traffic)
    traffic.fill_between(
        _hours(scaled[0].outcome), scaled[0].outcome.rate, color="lightgrey", label="requests a second"
    )
    for one in scaled:
        hours = _hours(one.outcome)
        replicas.plot(hours, one.outcome.ready, label=one.scaler)
        lag.plot(hours, one.outcome.lag * 1e3, label=f"{one.scaler}: {one.outcome.dropped_share:.2%} refused")
    lag.axhline(bound * 1e3, color="tab:red", linestyle="--", linewidth=0.8)
    lag.set_yscale("symlog", linthresh=1)
    lag.set_ylim(bottom=0)
    for drawn, label in ((traffic, "requests a second"), (replicas, "replicas that serve"), (lag, "lag, ms")):
        drawn.set_ylabel(label)
        drawn.spines[["top", "right"]].set_visible(False)
    replicas.legend(fontsize="small")
    lag.legend(fontsize="small")
    lag.set_xlabel("hours")


def _hours(outcome: Outcome) -> Seconds:
    return np.arange(len(outcome.rate)) / 3600


if __name__ == "__main__":
    main()
