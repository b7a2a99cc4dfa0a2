"""The run as a person reads it: tables in Markdown, a file of JSON and a plot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from load_tests.gpu.floor import Peaks
from load_tests.gpu.measure import Standing
from load_tests.gpu.service import Served, record
from load_tests.machine import described


def publish(
    out: Path, device: Mapping[str, Any], peaks: Peaks, standings: Sequence[Standing], served: Sequence[Served]
) -> None:
    """Prints the tables; writes `bench_gpu.json` and `bench_gpu.png` into the folder `out`."""
    lines = [f"{device['name']}: copies {peaks.bytes_per_second / 1e9:,.0f} GB/s"]
    lines += [f"multiplies {flops / 1e12:,.3g} TFLOP/s in {name}" for name, flops in peaks.flops_per_second.items()]
    print(", ".join(lines))
    for standing in standings:
        print("\n".join(["", *models_table(standing)]))
    if served:
        print("\n".join(["", *service_table(served, standings)]))
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": described(),
        "device": dict(device),
        "peaks": asdict(peaks),
        "models": [asdict(standing) for standing in standings],
        "service": [record(each) for each in served],
    }
    (out / "bench_gpu.json").write_text(json.dumps(content, indent=1) + "\n")
    if standings:
        plot(standings, out / "bench_gpu.png")
    print(f"\nwritten to {out}")


def models_table(standing: Standing) -> list[str]:
    """A line a way: microseconds of a run by its rows, and rows a second at the most rows."""
    rows = [floor.rows for floor in standing.floors]
    lines = [
        f"{standing.model}, {standing.nodes} nodes: us a run (p99), by rows",
        "",
        _line(["", *map(str, rows), f"rows/s of {rows[-1]}"]),
        _line(["---", *["---:"] * (len(rows) + 1)]),
    ]
    for precision, bound_by in standing.floors[-1].bound_by.items():
        least = [floor.us[precision] for floor in standing.floors]
        title = f"the floor in {precision}, by {bound_by}"
        lines.append(_line([title, *map(_figure, least), _figure(rows[-1] / least[-1] * 1e6)]))
    for title, timings in standing.timings.items():
        cells = [f"{_figure(each.p50_us)} ({_figure(each.p99_us)})" for each in timings]
        lines.append(_line([title, *cells, _figure(timings[-1].per_second)]))
    return lines + [f"\n{title}: not measured: {reason}" for title, reason in standing.failures.items()]


def service_table(served: Sequence[Served], standings: Sequence[Standing]) -> list[str]:
    """A line for each number of workers and of rows a request; beside it what the device does alone, where known."""
    stages = list(served[0].stages_us)
    head = ["workers", "rows a request", "requests/s", "rows/s", "of the device's own", "p50 ms", "p99 ms"]
    head += ["CPU us a request", "rows a run", "running", *(f"{stage} us" for stage in stages)]
    lines = ["The service, digits", "", _line(head), _line(["---:"] * len(head))]
    alone = max((each.per_second for each in _digits(standings)), default=0.0)
    for each in served:
        share = f"{each.per_second / alone:.0%}" if alone else ""
        figures = [each.p50_ms, each.p99_ms, each.cpu_us, each.rows_a_run]
        lines.append(
            _line(
                [
                    str(each.workers),
                    str(each.rows),
                    _figure(each.requests_per_second),
                    _figure(each.per_second),
                    share,
                    *map(_figure, figures),
                    f"{each.running:.0%}",
                    *(_figure(each.stages_us[stage]) for stage in stages),
                ]
            )
        )
    return lines


def _digits(standings: Sequence[Standing]) -> list[Any]:
    """What the service could have had: digits in float32, by the way that it runs them."""
    return [
        timing
        for standing in standings
        if standing.model == "digits/2"
        for timing in standing.timings.get("onnxruntime, bound", [])
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _figure(value: float) -> str:
    """Three digits, or more where they stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plot(standings: Sequence[Standing], path: Path) -> None:
    """Rows a second by rows a run, a line a way, each model beside the floor."""
    figure = Figure(figsize=(5 * len(standings), 5), layout="constrained")
    for axes, standing in zip(figure.subplots(1, len(standings), squeeze=False)[0], standings, strict=True):
        for title, timings in standing.timings.items():
            axes.plot(*zip(*((each.rows, each.per_second) for each in timings), strict=True), marker="o", label=title)
        least = [(floor.rows, floor.rows / floor.us["float32"] * 1e6) for floor in standing.floors]
        axes.plot(*zip(*least, strict=True), color="black", linestyle="--", label="the floor in float32")
        axes.set(xscale="log", yscale="log", title=standing.model, xlabel="rows a run", ylabel="rows a second")
        axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=110)
