"""ONNX Runtime alone, in a program of its own: `python -m load_tests.bench.alone GRAPH INPUTS ROWS SECONDS`.

It runs the graph on batches of rows over and over and prints what a row takes, an `Alone` as JSON.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np

from service.engine.onnx.runtime import ort

BATCHES = 16


@dataclass(frozen=True)
class Alone:
    """One row's share of a run."""

    us: float
    """Microseconds that pass."""
    cpu_us: float
    """Microseconds of CPU time: less, where something else had the core meanwhile."""


def alone(graph: str, inputs: str, rows: int, seconds: float) -> Alone:
    """Runs `graph` with one thread.

    Args:
        graph: file.
        inputs: .npy file, the graph's only input with many rows.
        rows: of a run.
        seconds: how long to measure.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options)
    (name,) = (tensor.name for tensor in session.get_inputs())
    everything = np.load(inputs)
    generator = np.random.default_rng(0)
    batches = [everything[generator.choice(len(everything), rows)] for _ in range(BATCHES)]
    for batch in batches:
        session.run(None, {name: batch})
    done, started, cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - started) < seconds:
        session.run(None, {name: batches[done // rows % BATCHES]})
        done += rows
    return Alone(elapsed / done * 1e6, (time.process_time() - cpu) / done * 1e6)


if __name__ == "__main__":
    print(json.dumps(asdict(alone(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))))
