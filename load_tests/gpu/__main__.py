"""`make bench-gpu`: what one GPU does with the served graphs, and what the service makes of it, in one run.

Every way to run a graph (`load_tests.gpu.ways`) is timed at several numbers of rows, from arrays of the host to arrays
of the host, beside the least that the device's memory and arithmetic allow; then the service is asked, with more and
more workers. `--device cpu --quick` goes the same way without a GPU, for the sake of its test.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from load_tests.bench.load import check_tools
from load_tests.bench.scenarios import WrongAnswer
from load_tests.gpu import report
from load_tests.gpu.floor import peaks
from load_tests.gpu.measure import floors, measure
from load_tests.gpu.models import models
from load_tests.gpu.service import Served, rig, scenario, serve
from load_tests.gpu.ways import Device, ways
from load_tests.machine import OUT, say
from load_tests.processes import ServerError
from service.engine.onnx import cuda as gpu
from service.engine.onnx.runtime import ort

PARTS = ("models", "service")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the tables, and writes them and a plot into a folder."""
    options = _options(arguments)
    if "service" in options.parts:
        check_tools()
    device: Device = options.device
    if device == "cuda" and (trouble := gpu.unavailable_reason("cuda")) is not None:
        raise SystemExit(f"cuda does not work: {trouble}")
    place = torch.device(device)
    if device == "cpu":
        torch.set_num_threads(1)
    found = peaks(place, 512 if options.quick else 8192)
    chosen = models(options.models)
    standings = [floors(model, options.rows, found) for model in chosen] if "models" in options.parts else []
    for standing, model in zip(standings, chosen, strict=False):
        for way in ways(device):
            if options.ways is None or way.title in options.ways:
                say(measure(standing, model, way, device, options.rows, options.seconds))
    served = _serve(options, device) if "service" in options.parts else []
    report.publish(options.out, _device(place), found, standings, served)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="little of everything: that it runs, not how fast")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--models", nargs="+", metavar="NAME/VERSION", help="the default is all")
    parser.add_argument("--ways", nargs="+", metavar="TITLE", help="of ONNX Runtime and torch; the default is all")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 64, 256, 1024], help="of a run")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8], help="of the service")
    parser.add_argument("--requests", nargs="+", type=int, default=[1, 64], metavar="ROWS", help="of a request to it")
    parser.add_argument("--seconds", type=float, default=0.3, help="of a measurement of a graph")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for bench_gpu.json and bench_gpu.png")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rows, options.seconds = [1, 8], 0.02
        options.workers, options.requests = [1], [8]
    return options


def _serve(options: argparse.Namespace, device: Device) -> list[Served]:
    [digits] = models(["digits/2"])
    served: list[Served] = []
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        stand = rig(1 if options.quick else 5, Path(folder))
        for rows in options.requests:
            asked = scenario(digits, rows)
            for workers in options.workers:
                try:
                    served.append(serve(stand, asked, rows, workers, device))
                    say(f"{workers} workers, {rows} rows a request: {served[-1].per_second:,.0f} rows/s")
                except (ServerError, WrongAnswer) as error:
                    say(f"{workers} workers, {rows} rows a request: {error}")
    return served


def _device(place: torch.device) -> dict[str, Any]:
    """What it was measured on, beside the machine."""
    named = torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU, one thread"
    return {"name": named, "onnxruntime": ort.__version__, "torch": torch.__version__, "cuda": torch.version.cuda}


if __name__ == "__main__":
    main()
