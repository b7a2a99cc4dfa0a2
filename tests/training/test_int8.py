"""Weights are rounded as closely as seven bits allow, and eight-bit integers are served only where they pay."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.registry.card import Figure
from tests.paths import MODELS
from training.int8 import WEIGHT_LEVELS, quantized, settle

MODEL = MODELS / "digits" / "1"
RIGHT = Figure(value=0.9, how="a test")


@given(arrays.arrays(np.float32, (3, 4, 2), elements=st.floats(-100, 100, width=32)))
def test_weights_are_off_by_half_a_step_at_most(weights: np.ndarray) -> None:
    integers, steps = quantized(weights)
    assert integers.dtype == np.int8
    assert np.abs(integers.astype(int)).max() <= WEIGHT_LEVELS
    steps = steps[:, None, None]
    assert (np.abs(integers * steps - weights) <= 0.501 * steps).all()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Both graphs, and golden cases with the reference's answers alone."""
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


def test_a_graph_that_pays_is_served_and_its_answers_recorded(directory: Path) -> None:
    kept = settle(directory, {"accuracy": RIGHT}, {"accuracy": RIGHT}, runs(directory), "as a test")
    # Faster by how much depends on the processor; that it is served exactly if it is faster does not.
    faster = all(figure.value > 1 for figure in kept.speedup.values())
    assert kept.served == faster == (directory / "model.int8.onnx").exists()
    recorded = golden(directory)
    assert kept.served == ("int8:probabilities" in recorded)
    if kept.served:
        np.testing.assert_allclose(recorded["int8:probabilities"], recorded["out:probabilities"], atol=0.05)


@pytest.mark.parametrize("figure", ["accuracy", "photograph_accuracy"])
def test_a_graph_that_loses_accuracy_is_not(directory: Path, figure: str) -> None:
    measured = {"accuracy": RIGHT, "photograph_accuracy": RIGHT, "log_loss": RIGHT}
    worse = {**measured, figure: Figure(value=0.898, how="a test")}
    kept = settle(directory, measured, worse, runs(directory), "as a test")
    assert not kept.served
    assert "int8:probabilities" not in golden(directory)
    assert kept.figures == worse
    assert not (directory / "model.int8.onnx").exists()
