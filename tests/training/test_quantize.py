"""Weights are rounded as closely as seven bits allow, and int8 is accepted on validation rows and operations."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.paths import MODELS
from training import quantize

MODEL = MODELS / "digits" / "1"


@given(arrays.arrays(np.float32, (3, 4, 2), elements=st.floats(-100, 100, width=32)))
def test_weights_are_off_by_half_a_step_at_most(weights: np.ndarray) -> None:
    integers, scales = quantize.quantize_weights(weights)
    assert integers.dtype == np.int8
    assert np.abs(integers.astype(int)).max() <= quantize.WEIGHT_LEVELS
    scales = scales[:, None, None]
    assert (np.abs(integers * scales - weights) <= 0.501 * scales).all()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Both graphs, and golden cases with the reference's outputs alone."""
    made = Path(shutil.copytree(MODEL, tmp_path / "digits" / "1"))
    reference = {name: values for name, values in golden(made).items() if not name.startswith("int8:")}
    np.savez(made / "golden.npz", allow_pickle=False, **reference)
    return made


def golden(directory: Path) -> dict[str, np.ndarray]:
    with np.load(directory / "golden.npz") as file:
        return dict(file)


def runs(directory: Path) -> dict[str, dict[str, np.ndarray]]:
    pictures = np.load(directory / "golden.npz")["in:pictures"]
    return {str(rows): {"pictures": pictures[:rows]} for rows in (1, 32)}


def test_a_graph_as_good_on_validation_rows_is_served_however_fast(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> object:
        return quantize.metrics.mean(np.full(5, 0.5), "a slow machine")

    monkeypatch.setattr(quantize, "_speedup", slow)
    accepted = quantize.accept_int8(directory, lambda _: 0.9, runs(directory), "as a test")
    assert accepted.served
    assert accepted.speedup["1"].value == 0.5
    recorded = golden(directory)
    np.testing.assert_allclose(recorded["int8:probabilities"], recorded["out:probabilities"], atol=0.05)


def test_a_graph_worse_on_validation_rows_is_not_served(directory: Path) -> None:
    accuracy = {"model.onnx": 0.9, "model.int8.onnx": 0.898}
    accepted = quantize.accept_int8(directory, lambda path: accuracy[path.name], runs(directory), "as a test")
    assert not accepted.served
    assert not accepted.speedup
    assert "int8:probabilities" not in golden(directory)
    assert not (directory / "model.int8.onnx").exists()


def test_a_graph_that_still_computes_in_float_is_not_served(directory: Path) -> None:
    shutil.copyfile(directory / "model.onnx", directory / "model.int8.onnx")
    accepted = quantize.accept_int8(directory, lambda _: 0.9, runs(directory), "as a test")
    assert not accepted.served
    assert "0% of the multiply-adds" in accepted.how


@pytest.mark.parametrize(
    ("version", "share"), [("digits/1", 0.98), ("digits/2", 0.99), ("sentiment/2", 0.6), ("mammogram/1", 0)]
)
def test_the_share_of_integer_operations_of_shipped_graphs(version: str, share: float) -> None:
    directory = MODELS / version
    with np.load(directory / "golden.npz") as cases:
        inputs = {name[3:]: cases[name][:2] for name in cases.files if name.startswith("in:")}
    graph = directory / ("model.int8.onnx" if share else "model.onnx")
    assert share <= quantize.integer_share(graph, inputs) <= (1 if share else 0)
    assert quantize.integer_share(directory / "model.onnx", inputs) == 0
