"""Capacity as a person reads it: two tables and a plot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from load_tests.capacity.fleet import Outcome
from load_tests.capacity.plan import Cost, Plan
from load_tests.capacity.queueing import Station
from load_tests.capacity.traffic import Series


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


def _hours(outcome: Outcome) -> Series:
    return np.arange(len(outcome.rate)) / 3600
