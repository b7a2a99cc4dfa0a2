"""The run as a person reads it: a table, the goals, a file of JSON and a plot."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from load_tests.bench.goals import goals
from load_tests.bench.load import Load
from load_tests.bench.results import BATCHED, OWN_BATCHES, Results, Standings
from load_tests.machine import QUIET, described
from load_tests.subjects import BARE, DEEPSERVE

COLUMNS: tuple[tuple[str, int, Callable[[Load], float | None]], ...] = (
    ("CPU us a request", BATCHED, lambda load: load.cpu_us),
    ("requests/s", BATCHED, lambda load: load.per_second),
    ("p50 ms", BATCHED, lambda load: load.p50_ms),
    ("p99 ms", BATCHED, lambda load: load.p99_ms),
    ("rows a run", BATCHED, lambda load: load.rows),
    ("8: p50", 8, lambda load: load.p50_ms),
    ("8: p99", 8, lambda load: load.p99_ms),
    ("1: p50", 1, lambda load: load.p50_ms),
)
"""Of the table: at so many connections, this figure of a load."""
HEADS = ["server", *(name for name, _, _ in COLUMNS), "MB (PSS)", "ready s", "errors"]


def publish(results: Results, settings: dict[str, Any], out: Path) -> None:
    """Prints the tables and the goals; writes `bench.json` and `bench.png` into the folder `out`."""
    reached = goals(results)
    for standings, asked in (
        (results.digits, f"a picture a request, {BATCHED} connections where a column does not say"),
        (results.sentiment, f"a review a request, long and short ones mixed, {BATCHED} connections"),
    ):
        if standings.records:
            print("\n".join(["", f"{standings.graph}: {asked}", "", *table(standings)]))
    if (others := results.others()) > QUIET:
        print(f"\nOther programs had {others:.0%} of the server's core: trust CPU time alone.")
    print("\n".join(["", "Goals", "", *map(str, reached)]))
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": described(),
        "settings": settings,
        "goals": [asdict(goal) for goal in reached],
        "results": asdict(results),
    }
    (out / "bench.json").write_text(json.dumps(record, indent=1) + "\n")
    plot(results, out / "bench.png")
    print(f"\n{out / 'bench.json'}, {out / 'bench.png'}")


def table(standings: Standings) -> list[str]:
    """Lines of Markdown: the floor and the ceiling, then the servers, least CPU time first, then those that failed."""
    cpu_us = {title: standings.median(title, BATCHED, lambda load: load.cpu_us) or 0 for title in standings.servers}
    rows = [
        *_alone(standings),
        *(_server(standings, title) for title in standings.records if title == BARE.title),
        *_ceiling(standings),
        *(_server(standings, title) for title in sorted(cpu_us, key=cpu_us.__getitem__)),
    ]
    widths = [max(len(cells[column]) for cells in [HEADS, *rows]) for column in range(len(HEADS))]
    lines = [
        _line(HEADS, widths),
        _line(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])], widths),
        *(_line(cells, widths) for cells in rows),
    ]
    return lines + [f"| {title}: not measured: {reason} |" for title, reason in standings.failures.items()]


def _line(cells: list[str], widths: list[int]) -> str:
    title, *figures = cells
    aligned = [title.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True))]
    return f"| {' | '.join(aligned)} |"


def _server(standings: Standings, title: str) -> list[str]:
    record = standings.records[title]
    return [
        title,
        *(_figure(standings.median(title, connections, figure)) for _, connections, figure in COLUMNS),
        _figure(record.memory.pss),
        _figure(record.seconds_to_ready),
        str(sum(load.refused + load.lost for load in record.loads)),
    ]


def _alone(standings: Standings) -> list[list[str]]:
    own = _figure(standings.median(DEEPSERVE, BATCHED, lambda load: load.rows))
    return [
        _bound(
            f"ONNX Runtime alone, rows a run: {f'{own}, as deepserve' if rows == OWN_BATCHES else rows}",
            median(one.cpu_us for one in measured),
            1e6 / median(one.us for one in measured),
        )
        for rows, measured in standings.alone.items()
    ]


def _ceiling(standings: Standings) -> list[list[str]]:
    bare = standings.median(BARE.title, BATCHED, lambda load: load.cpu_us)
    pace = standings.ceiling()
    if bare is None or pace is None:
        return []
    cpu_us = bare + median(one.cpu_us for one in standings.alone[OWN_BATCHES])
    return [_bound("the ceiling: the last two together", cpu_us, pace)]


def _bound(title: str, cpu_us: float, per_second: float) -> list[str]:
    return [title, _figure(cpu_us), _figure(per_second), *[""] * (len(HEADS) - 3)]


def _figure(value: float | None) -> str:
    """Three digits, or more where they stand before the point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plot(results: Results, path: Path) -> None:
    """Bars, the best on top: CPU time and throughput on pictures, throughput on reviews."""
    figure = Figure(figsize=(15, 4), layout="constrained")
    figure.suptitle(f"One worker on one core, {BATCHED} connections")
    cpu, pace, reviews = figure.subplots(1, 3)
    _bars(cpu, "digits: CPU us a request", results.digits, lambda load: load.cpu_us, descending=True)
    _bars(pace, "digits: requests a second", results.digits, lambda load: load.per_second)
    _bars(reviews, "sentiment: requests a second", results.sentiment, lambda load: load.per_second)
    if ceiling := results.digits.ceiling():
        pace.axvline(ceiling, color="tab:red", linestyle="--", label="the ceiling")
        pace.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def _bars(
    axes: Axes, title: str, standings: Standings, value: Callable[[Load], float], *, descending: bool = False
) -> None:
    bars = sorted(
        ((standings.median(name, BATCHED, value) or 0, name) for name in standings.servers), reverse=descending
    )
    colors = ["tab:blue" if name == DEEPSERVE else "lightgrey" for _, name in bars]
    drawn = axes.barh([name for _, name in bars], [length for length, _ in bars], color=colors)
    axes.bar_label(drawn, fmt="{:,.0f}", padding=3)
    axes.set_title(title)
    axes.set_visible(bool(bars))
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
