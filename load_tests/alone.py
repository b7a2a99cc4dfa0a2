"""ONNX Runtime alone, in a program of its own: `python -m load_tests.alone GRAPH INPUTS ROWS SECONDS`.

It runs the graph on batches of rows over and over and prints the microseconds that a row takes.
"""

import sys
import time

import numpy as np
import onnxruntime as ort

BATCHES = 16


def microseconds_a_row(graph: str, inputs: str, rows: int, seconds: float) -> float:
    """Wall time of a run with `rows` rows, divided by them.

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
    runs, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        session.run(None, {name: batches[runs % BATCHES]})
        runs += 1
    return elapsed / runs / rows * 1e6


if __name__ == "__main__":
    print(microseconds_a_row(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
