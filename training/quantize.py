"""Eight-bit integers beside float32: rounding of weights, and the decision whether int8 is served.

All scales are fixed in training. Scales taken from each batch would make answers depend on their neighbours: the
probability of a review moved by up to 0.006. ONNX Runtime's `quantize_static` (per channel, reduced range, percentile
99.999) was tried on both digits networks: 1.22 to 1.34 times the CPU time of the graphs written here. Fashion stays in
float32: in integers, the last layer apart, it would be 2.0 times as fast with a Frechet distance of 0.120 for 0.116.
Mammogram is too small to gain.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from service.engine.onnx.runtime import ort
from service.registry.card import GRAPHS, Figure, Int8
from service.tensors import Tensors
from training import metrics
from training.version import add_int8_golden, open_session

WEIGHT_LEVELS = 63
"""Weights are -63 to 63, seven bits: processors without VNNI add two products of a weight and an unsigned byte in 16
bits and saturate. So every processor computes the same integers."""

LEVELS = 255
"""Activations are unsigned bytes with zero point 0: they are never negative."""

MAX_ACCURACY_LOSS = 0.001
"""Largest loss of accuracy on validation rows."""

MIN_INTEGER_SHARE = 0.5
"""Least share of the multiply-adds that must run in integers to be worth a second graph."""

ROUNDS = 25

Floats = npt.NDArray[np.floating]


def quantize_weights(weights: Floats) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return weights, `[outputs, ...]`, as integers, and their scales, float32 `[outputs]`."""
    rows = weights.reshape(len(weights), -1)
    scales = np.maximum(np.abs(rows).max(1), 1e-12) / WEIGHT_LEVELS
    return np.round(rows / scales[:, None]).astype(np.int8).reshape(weights.shape), scales.astype(np.float32)


def accept_int8(
    directory: Path, validation_accuracy: Callable[[Path], float], runs: Mapping[str, Tensors], how: str
) -> Int8:
    """Decide whether the int8 graph in `directory` is served; delete it if not, else add its golden outputs.

    It is served if it loses at most `MAX_ACCURACY_LOSS` on validation rows and does at least `MIN_INTEGER_SHARE` of its
    multiply-adds in integers. Neither the test rows nor a stopwatch decide. The speed-up is measured for the card.

    Args:
        directory: of the version, with both graphs and golden cases.
        validation_accuracy: of the graph at a path, on validation rows.
        runs: inputs of timed runs, by number of rows.
        how: the method, for the card.
    """
    lost = validation_accuracy(directory / GRAPHS["float32"]) - validation_accuracy(directory / GRAPHS["int8"])
    share = integer_share(directory / GRAPHS["int8"], next(iter(runs.values())))
    served = lost <= MAX_ACCURACY_LOSS and share >= MIN_INTEGER_SHARE
    how = f"{how}: accuracy lost {lost:.4f}, {share:.0%} of the multiply-adds in integers"
    if not served:
        (directory / GRAPHS["int8"]).unlink()
        return Int8(served=False, how=how, figures={}, speedup={})
    add_int8_golden(directory)
    return Int8(
        served=True, how=how, figures={}, speedup={rows: _speedup(directory, runs[rows], rows) for rows in runs}
    )


def integer_share(graph: Path, inputs: Tensors) -> float:
    """Return the share of multiply-adds that operators on eight-bit weights do."""
    counts = {True: 0, False: 0}
    model = onnx.load(graph, load_external_data=False)
    weights = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) > 1}
    products = [node for node in model.graph.node if weights.keys() & set(node.input) and "Gather" not in node.op_type]
    products = [
        node for node in products if any(word in node.op_type for word in ("Conv", "Gemm", "MatMul", "LSTM", "GRU"))
    ]
    sizes = _output_sizes(graph, [node.output[0] for node in products], inputs)
    for node in products:
        used = [weights[name] for name in node.input if name in weights]
        units = {"Conv": used[0].dims[0], "LSTM": 2 * used[0].dims[1] // 4, "GRU": 2 * used[0].dims[1] // 3}
        kind = next((kind for kind in units if kind in node.op_type), "")
        outputs = units[kind] if kind else used[0].dims[-1]
        integer = used[0].data_type == onnx.TensorProto.INT8
        counts[integer] += sizes[node.output[0]] // outputs * sum(int(np.prod(tensor.dims)) for tensor in used)
    return counts[True] / max(1, sum(counts.values()))


def _output_sizes(graph: Path, names: list[str], inputs: Tensors) -> dict[str, int]:
    """Return how many numbers each of the graph's inner values holds for these inputs."""
    model = onnx.load(graph, load_external_data=False)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(graph.parent))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {name: value.size for name, value in zip(names, session.run(names, dict(inputs)), strict=True)}


def _speedup(directory: Path, inputs: Tensors, rows: str) -> Figure:
    """Return the ratio of the reference's CPU time to int8's, measured in turns so that both meet the same noise."""
    sessions = [open_session(directory / GRAPHS[precision]) for precision in ("float32", "int8")]
    seconds = np.array([[_seconds(session, inputs) for session in sessions] for _ in range(ROUNDS + 1)])[1:]
    how = f"{rows} rows, one thread, {ROUNDS} rounds in turns, medians of CPU time; {_kernels()}"
    return metrics.bootstrap(lambda old, new: float(np.median(old) / np.median(new)), *seconds.T, how=how)


def _seconds(session: ort.InferenceSession, inputs: Tensors, at_least: float = 0.01) -> float:
    """Return the CPU time of one run, averaged over `at_least` seconds."""
    runs, started = 0, time.thread_time()
    while (spent := time.thread_time() - started) < at_least:
        session.run(None, inputs)
        runs += 1
    return spent / runs


def _kernels() -> str:
    """Return the instructions for byte products that this processor has."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return "unknown instructions"
    found = [flag for flag in ("amx_int8", "avx512_vnni", "avx_vnni", "avx2") if flag in flags]
    return ", ".join(found) or "none of AVX2, VNNI and AMX"
