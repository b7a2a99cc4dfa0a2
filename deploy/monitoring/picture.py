"""Draws the dashboard without Grafana: `python deploy/monitoring/picture.py PROMETHEUS`.

It asks a Prometheus that watches the service for each panel's own queries over the last minutes, and draws what comes
back in the dashboard's grid. Colours and letters are not Grafana's; titles, queries, legends, units and places are.
"""

import argparse
import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

HERE = Path(__file__).parent
POINTS = 200
"""Of a line."""
WIDTH, HEIGHT = 64, 29
"""Of a cell of the grid, in pixels; a panel is 6 wide and 8 high."""
DPI = 100
GAP = 4
PAGE, PANEL, GRID, TEXT, FAINT = "#f4f5f5", "#ffffff", "#e7e8ea", "#24292e", "#6c757d"
UNITS = {"percentunit": (100, "%"), "s": (1e3, "ms"), "bytes": (2**-20, "MiB"), "reqps": (1, "/s")}
"""Of Grafana, those that are used: by what a value is multiplied, and what is written behind it."""
LINES = ["#56a64b", "#3274d9", "#ff780a", "#8f3bb8", "#e02f44", "#e0b400", "#1f9bb3", "#a16946", "#7b8794", "#c15c17"]


@dataclass(frozen=True)
class Line:
    """What one series has been."""

    legend: str
    minutes: list[float]
    """Before now, negative."""
    values: list[float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws it; fails if all panels would be empty."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prometheus", help="its address")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", default="20s", help="over which rates are taken: some scrapes")
    parser.add_argument("--dashboard", type=Path, default=HERE / "dashboards" / "deepserve.json")
    parser.add_argument("--out", type=Path, default=HERE / "dashboard.png")
    options = parser.parse_args(arguments)
    dashboard = json.loads(options.dashboard.read_text())
    with httpx.Client(base_url=options.prometheus, timeout=30) as prometheus:
        lines = {
            panel["id"]: ask(prometheus, panel, options.minutes, options.rate)
            for panel in dashboard["panels"]
            if panel["type"] != "row"
        }
    if not any(lines.values()):
        raise SystemExit(f"{options.prometheus} has nothing to draw in the last {options.minutes:g} minutes")
    draw(dashboard, lines, options.out)


def ask(prometheus: httpx.Client, panel: dict[str, Any], minutes: float, rate: str) -> list[Line]:
    """What the queries of a panel have given over the last `minutes`, all jobs and models taken together."""
    now = time.time()
    span = {"start": now - 60 * minutes, "end": now, "step": 60 * minutes / POINTS}
    found = []
    for target in panel["targets"]:
        query = target["expr"].replace("$__rate_interval", rate).replace("$job", ".*").replace("$model", ".*")
        answer = prometheus.post("/api/v1/query_range", data={"query": query, **span}).raise_for_status().json()
        for series in answer["data"]["result"]:
            moments, values = zip(*series["values"], strict=True)
            legend = _legend(target["legendFormat"], series["metric"])
            found.append(Line(legend, [(each - now) / 60 for each in moments], [float(each) for each in values]))
    return [line for line in found if any(map(math.isfinite, line.values))]


def _legend(form: str, labels: dict[str, str]) -> str:
    """With the labels of a series in it; those that it lacks leave nothing, as in Grafana."""
    return re.sub(r"{{(\w+)}}", lambda name: labels.get(name[1], ""), form).strip() or "none"


def draw(dashboard: dict[str, Any], lines: dict[int, list[Line]], path: Path) -> None:
    """All panels, each where it is in the dashboard."""
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    figure = Figure(figsize=(24 * WIDTH / DPI, (height * HEIGHT + 2 * GAP) / DPI), dpi=DPI, facecolor=PAGE)
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        left, right = place["x"] * WIDTH + GAP, (place["x"] + place["w"]) * WIDTH - GAP
        top, bottom = (place["y"] * HEIGHT + 2 * GAP), (place["y"] + place["h"]) * HEIGHT
        if panel["type"] == "row":
            _write(figure, left, (top + bottom) / 2, panel["title"], size=10, weight="bold", va="center")
        else:
            _draw(figure, (left, top, right, bottom), panel, lines[panel["id"]])
    note = "the dashboard's own queries to Prometheus, drawn by picture.py; Grafana's drawing looks otherwise"
    _write(figure, 24 * WIDTH - GAP, HEIGHT - GAP, note, size=7, style="italic", ha="right", va="bottom")
    figure.savefig(path)
    Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=96).save(path, optimize=True)


def _write(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    """At so many pixels from the left and from above."""
    width, height = figure.get_size_inches() * DPI
    figure.text(x / width, 1 - y / height, text, color=TEXT, **style)


def _draw(figure: Figure, box: tuple[float, float, float, float], panel: dict[str, Any], lines: list[Line]) -> None:
    left, top, right, bottom = box
    width, height = figure.get_size_inches() * DPI
    corner, size = (left / width, 1 - bottom / height), ((right - left) / width, (bottom - top) / height)
    frame = FancyBboxPatch(corner, *size, boxstyle="square,pad=0", facecolor=PANEL, edgecolor=GRID, zorder=-1)
    figure.add_artist(frame)
    _write(figure, left + 9, top + 9, panel["title"], size=8, weight="bold", va="top")
    if not lines:
        _write(figure, (left + right) / 2, (top + bottom) / 2, "no data", size=8, ha="center", va="center")
        return
    columns = max(1, min(4, int((right - left - 20) // (26 + 5.3 * max(len(line.legend) for line in lines)))))
    legend = 13 * math.ceil(len(lines) / columns) + 4
    below, above = bottom - legend - 22, top + 34
    axes = figure.add_axes(
        ((left + 52) / width, 1 - below / height, (right - left - 70) / width, (below - above) / height)
    )
    _plot(axes, panel["fieldConfig"]["defaults"]["unit"], lines)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="lower left",
        bbox_to_anchor=((left + 4) / width, 1 - (bottom - 2) / height),
        ncols=columns,
        fontsize=6.5,
        labelcolor=TEXT,
        frameon=False,
        handlelength=1.2,
        handletextpad=0.5,
        columnspacing=1.2,
        labelspacing=0.35,
        borderaxespad=0,
        borderpad=0.3,
    )


def _plot(axes: Axes, unit: str, lines: list[Line]) -> None:
    axes.set_facecolor(PANEL)
    scale, _ = UNITS.get(unit, (1, ""))
    for number, line in enumerate(lines):
        color, values = LINES[number % len(LINES)], [scale * value for value in line.values]
        axes.plot(line.minutes, values, color=color, linewidth=1.1, label=line.legend)
        if len(lines) == 1:
            axes.fill_between(line.minutes, values, color=color, alpha=0.1, linewidth=0)
    highest = max(value for line in lines for value in line.values if math.isfinite(value))
    most = scale * highest or max(1, scale)
    axes.set_ylim(-0.02 * most, 1.1 * most)
    axes.set_xlim(min(min(line.minutes) for line in lines), 0)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=unit == "short"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: "" if value < 0 else quantity(value, unit)))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} min" if value else "now"))
    axes.tick_params(colors=FAINT, labelsize=6.5, length=0)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def quantity(value: float, unit: str) -> str:
    """A scaled value as a person reads it."""
    return f"{value:.4g} {UNITS.get(unit, (1, ''))[1]}".strip()


if __name__ == "__main__":
    main()
