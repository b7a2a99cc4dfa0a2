"""Eight-bit integers beside float32: how weights are rounded, what is lost and won by it, and whether it is served.

All steps are fixed in training: taken from each batch, they would move the probabilities of a review by up to 0.006.
The generator, its last layer apart, would be 2.0x as fast, and its Frechet distance 0.120 for 0.116: it stays in
float32, as does the mammogram model, which is too small to gain.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.engine.onnx.runtime import ort
from service.registry.card import GRAPHS, Figure, Int8
from service.tensors import Tensors
from training import evaluate

WEIGHT_LEVELS = 63
"""Weights are -63 to 63, seven bits: processors without VNNI add two products of a weight and an unsigned byte in 16
bits and cut off what does not fit. So every processor comes to the same integers."""

LEVELS = 255
"""Of what flows between layers: unsigned bytes, 0 for 0, as all of it is at least 0."""

ALLOWANCE = 0.001
"""Most accuracy that may be lost for speed, as a share of all rows."""

ROUNDS = 25

Figures = Mapping[str, Figure]
Floats = npt.NDArray[np.floating]


def quantized(weights: Floats) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Weights, `[outputs, ...]`, as integers, and the size of a step, float32 `[outputs]`: each output has its own."""
    apart = weights.reshape(len(weights), -1)
    steps = np.maximum(np.abs(apart).max(1), 1e-12) / WEIGHT_LEVELS
    return np.round(apart / steps[:, None]).astype(np.int8).reshape(weights.shape), steps.astype(np.float32)


def settle(directory: Path, figures: Figures, int8_figures: Figures, runs: Mapping[str, Tensors], how: str) -> Int8:
    """Holds both graphs in `directory` against each other; the one in eight bits goes if it does not pay.

    It pays if it is faster at every size of a run and loses no more than `ALLOWANCE` of any accuracy. Then its
    answers to the golden cases are recorded beside those of the reference.

    Args:
        figures: of the reference; those with `accuracy` in their name are held to `ALLOWANCE`.
        int8_figures: the same of the graph in eight bits.
        runs: what each timed run is fed, by its number of rows.
        how: the rounding, for the card.
    """
    speedup = {rows: _speedup(directory, inputs, rows) for rows, inputs in runs.items()}
    lost = [figures[name].value - int8_figures[name].value for name in figures if "accuracy" in name]
    served = max(lost) <= ALLOWANCE and all(figure.value > 1 for figure in speedup.values())
    if served:
        _add_golden(directory)
    else:
        (directory / GRAPHS["int8"]).unlink()
    return Int8(served=served, how=how, figures=dict(int8_figures), speedup=speedup)


def _speedup(directory: Path, inputs: Tensors, rows: str) -> Figure:
    """Processor time of the reference by that of eight bits, in turns so that both meet the same noise."""
    sessions = [_session(directory / GRAPHS[precision]) for precision in ("float32", "int8")]
    seconds = np.array([[_seconds(session, inputs) for session in sessions] for _ in range(ROUNDS + 1)])[1:]
    how = f"{rows} rows, one thread, {ROUNDS} rounds in turns, medians of processor time; {_kernels()}"
    return evaluate.bootstrap(lambda old, new: float(np.median(old) / np.median(new)), *seconds.T, how=how)


def _seconds(session: ort.InferenceSession, inputs: Tensors, least: float = 0.01) -> float:
    """Processor time of one run, over as many as take `least` seconds together."""
    runs, started = 0, time.thread_time()
    while (spent := time.thread_time() - started) < least:
        session.run(None, inputs)
        runs += 1
    return spent / runs


def _session(graph: Path) -> ort.InferenceSession:
    """As the service opens it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _kernels() -> str:
    """The instructions for products of bytes that this processor has."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return "unknown instructions"
    found = [flag for flag in ("amx_int8", "avx512_vnni", "avx_vnni", "avx2") if flag in flags]
    return ", ".join(found) or "none of AVX2, VNNI and AMX"


def _add_golden(directory: Path) -> None:
    with np.load(directory / "golden.npz", allow_pickle=False) as golden:
        arrays = {name: values for name, values in golden.items() if not name.startswith("int8:")}
    inputs = {name.removeprefix("in:"): value for name, value in arrays.items() if name.startswith("in:")}
    session = _session(directory / GRAPHS["int8"])
    names = [output.name for output in session.get_outputs()]
    said = {f"int8:{name}": value for name, value in zip(names, session.run(names, inputs), strict=True)}
    np.savez_compressed(directory / "golden.npz", allow_pickle=False, **arrays, **said)
