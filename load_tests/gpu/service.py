"""The service end to end on the device, with more and more workers: how much of what the device can do comes out.

A picture a request, and a run's worth of pictures a request, as JSON tensors from wrk. What a worker spends its time on
comes from the server's own histograms.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from load_tests.bench.rig import Rig
from load_tests.bench.scenarios import Scenario
from load_tests.gpu.models import Model
from load_tests.gpu.ways import Device
from load_tests.metrics import Histogram, histogram
from load_tests.subjects import deepserve
from service.tensors import Array

CONNECTIONS = 64
"""A worker."""
STAGES = ("decode", "queue", "run", "encode")


@dataclass(frozen=True)
class Served:
    """What so many workers did with requests of so many rows."""

    workers: int
    rows: int
    """A request."""
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """Of the whole server, a request."""
    rows_a_run: float
    running: float
    """Share of the time in which a worker has a run under way, mean over the workers."""
    stages_us: dict[str, float]
    """Mean of each stage of a request; of `run` of each run."""

    @property
    def per_second(self) -> float:
        """Rows."""
        return self.requests_per_second * self.rows


def rig(seconds: int, folder: Path) -> Rig:
    """The last quarter of the cores asks, the others serve."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    clients = max(1, len(cores) // 4)
    return Rig(cores[:-clients] or cores, cores[-clients:], seconds, folder)


def scenario(model: Model, rows: int) -> Scenario:
    """Requests of so many pictures each, checked by the first of them."""
    pictures = model.inputs(256)["pictures"]
    chosen = [np.roll(pictures, shift, axis=0)[:rows] for shift in range(64)]
    return Scenario(
        name=f"digits of {rows}",
        graph=model.graph,
        route=f"/v2/models/{model.card.name}/versions/{model.card.version}/infer",
        bodies=[_body(each) for each in chosen],
        inputs=chosen,
        read=lambda answer: answer["outputs"][0]["data"][:10],
        first=0,
        connections=(CONNECTIONS,),
        least_seconds=1,
    )


def _body(pictures: Array) -> bytes:
    tensor = {"name": "pictures", "shape": pictures.shape, "datatype": "UINT8", "data": pictures.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def serve(rig: Rig, asked: Scenario, rows: int, workers: int, device: Device) -> Served:
    """Measures the service with so many workers on the device.

    Raises:
        ServerError: it does not start, or goes away.
        WrongAnswer: it does not answer as the graph does on the CPU.
    """
    settings = {"device": device, "workers": str(workers), "precision": "float32", "threads": "1"}
    settings["max_queue_rows"] = str(2 * rows * CONNECTIONS * workers)
    with rig.trying(deepserve(asked.route, **settings), asked) as trial:
        before, started = _histograms(trial.server.url), time.perf_counter()
        load = trial.load(CONNECTIONS * workers)
        spent = {stage: late.since(before[stage]) for stage, late in _histograms(trial.server.url).items()}
        seconds = time.perf_counter() - started
    return Served(
        workers,
        rows,
        load.per_second,
        load.p50_ms,
        load.p99_ms,
        load.cpu_us,
        load.rows or 0.0,
        spent["run"].sum / (seconds * workers),
        {stage: spent[stage].mean * 1e6 for stage in STAGES},
    )


def _histograms(url: str) -> dict[str, Histogram]:
    return {stage: histogram(url, f"deepserve_{stage}_seconds") for stage in STAGES}


def record(served: Served) -> dict[str, object]:
    """As JSON."""
    return asdict(served) | {"rows_per_second": served.per_second}
