"""The mammogram model that is committed, from its graph, and the training that made it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.onnx.runtime import ort
from service.registry.card import Card, digests
from service.tasks.mammogram import LEVELS, SEVERITIES
from tests.paths import MODELS, ROOT
from training import datasets, evaluate, export
from training.datasets import Masses
from training.mammogram import (
    FEATURES,
    Hyperparameters,
    Perceptrons,
    draw_parts,
    encode,
    fit,
    held_out,
    hide,
    odd_masses,
)
from training.mammogram_figures import measure
from training.run import Run

MODEL = MODELS / "mammogram" / "1"
NAN = np.nan

Floats = npt.NDArray[np.float32]

MEASUREMENTS = st.tuples(
    st.just(NAN) | st.integers(0, 120), *(st.just(NAN) | st.integers(1, len(names)) for names in LEVELS.values())
)


@pytest.fixture(scope="module")
def graph() -> ort.InferenceSession:
    return export.session(MODEL / "model.onnx")


@pytest.fixture(scope="module")
def data() -> Masses:
    return datasets.masses()


def probabilities(graph: ort.InferenceSession, masses: npt.ArrayLike) -> Floats:
    (found,) = graph.run(None, {"masses": np.asarray(masses, np.float32)})
    assert isinstance(found, np.ndarray)
    return found


def malignant(graph: ort.InferenceSession, *mass: float) -> float:
    return float(probabilities(graph, [mass])[0, 1])


def test_the_card_meets_the_bars() -> None:
    figures = Card.read(MODEL).figures
    assert figures["accuracy"].value >= 0.81
    assert figures["area_under_roc"].value >= 0.867
    assert figures["calibration_error"].value <= 0.04
    assert figures["brier_score"].value <= 0.145
    assert figures["best_temperature"].value == pytest.approx(1, abs=0.05)
    for name, figure in figures.items():
        if name != "best_temperature":
            assert figure.low is not None
            assert figure.high is not None
            assert figure.low < figure.value < figure.high, name


def test_the_card_describes_the_directory(graph: ort.InferenceSession) -> None:
    card = Card.read(MODEL)
    assert card.files == digests(MODEL)
    assert card.classes == SEVERITIES
    for specs, values in ((card.inputs, graph.get_inputs()), (card.outputs, graph.get_outputs())):
        assert [(s.name, s.dtype, s.shape) for s in specs] == [(v.name, "float32", tuple(v.shape)) for v in values]
        assert [v.type for v in values] == ["tensor(float)"]
    splits = card.data[0].splits
    assert "516 benign, 445 malignant; not recorded: age 5, shape 31, margin 48, density 76" in splits["all"]
    assert "BI-RADS" in splits["all"]


def test_the_graph_is_one_file_of_a_recent_opset_that_names_no_paths() -> None:
    model = onnx.load(MODEL / "model.onnx", load_external_data=False)
    assert model.opset_import[0].version >= 17
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert b".py" not in (MODEL / "model.onnx").read_bytes()


def test_golden_cases_come_out_as_in_training(graph: ort.InferenceSession, data: Masses) -> None:
    golden = np.load(MODEL / "golden.npz")
    masses, expected = golden["in:masses"], golden["out:probabilities"]
    assert len(masses) >= 16
    assert np.isnan(masses).any(0).all()
    real = {row.tobytes() for row in data.masses}
    assert all(row.tobytes() in real for row in masses)
    np.testing.assert_allclose(probabilities(graph, masses), expected, rtol=0, atol=1e-5)


@settings(deadline=None)
@given(st.lists(MEASUREMENTS, min_size=1, max_size=40), st.randoms())
def test_a_mass_is_judged_alike_in_any_company(
    graph: ort.InferenceSession, masses: list[tuple[float, ...]], random: np.random.Generator
) -> None:
    together = probabilities(graph, masses)
    assert ((together >= 0) & (together <= 1)).all()
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-6)
    alone = np.concatenate([probabilities(graph, [mass]) for mass in masses])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)
    order = list(range(len(masses)))
    random.shuffle(order)
    np.testing.assert_allclose(probabilities(graph, [masses[i] for i in order]), together[order], rtol=0, atol=1e-6)


def test_no_rows_are_none(graph: ort.InferenceSession) -> None:
    assert probabilities(graph, np.empty((0, 4))).shape == (0, 2)


@pytest.mark.parametrize(
    ("column", "value"),
    [(0, -1e-3), (0, 120.1)]
    + [(column, value) for column in (1, 2, 3) for value in (2.5, 4.999, 1e-9)]
    + [(column, value) for column in range(4) for value in (-np.inf, -1, 130, 3e38, np.inf)],
)
def test_a_value_that_is_no_measurement_counts_as_not_known(
    graph: ort.InferenceSession, column: int, value: float
) -> None:
    strange = [55.0, 2.0, 3.0, 3.0]
    strange[column] = value
    unknown = [*strange[:column], NAN, *strange[column + 1 :]]
    np.testing.assert_array_equal(probabilities(graph, [strange]), probabilities(graph, [unknown]))


@pytest.mark.parametrize("code", [0, 5, 6, 7])
def test_codes_end_where_the_levels_do(graph: ort.InferenceSession, code: float) -> None:
    assert malignant(graph, 55, code, 1, 3) == malignant(graph, 55, NAN, 1, 3)
    assert malignant(graph, 55, 1, 1, code) == malignant(graph, 55, 1, 1, NAN)
    assert (malignant(graph, 55, 1, code, 3) == malignant(graph, 55, 1, NAN, 3)) == (code != 5)


def others(*columns: int) -> Iterator[list[float]]:
    """Typical masses, of which what is in the other columns is known or not."""
    for age in (40, 55, 70, NAN):
        for shape in (1, 2, 4, NAN):
            for margin in (1, 4, 5, NAN):
                mass = [age, shape, margin, 3.0]
                yield [0 if i in columns else value for i, value in enumerate(mass)]


def test_a_spiculated_margin_is_worse_than_a_circumscribed_one(graph: ort.InferenceSession) -> None:
    for age, shape, _, density in others(2):
        assert malignant(graph, age, shape, 5, density) > malignant(graph, age, shape, 1, density)


def test_an_irregular_shape_is_worse_than_a_round_one(graph: ort.InferenceSession) -> None:
    for age, _, margin, density in others(1):
        assert malignant(graph, age, 4, margin, density) > malignant(graph, age, 1, margin, density)


def test_age_is_worse(graph: ort.InferenceSession) -> None:
    for _, shape, margin, density in others(0):
        by_age = probabilities(graph, [(age, shape, margin, density) for age in range(25, 90, 5)])[:, 1]
        assert (np.diff(by_age) > 0).all()


def test_plain_cases_are_plain(graph: ort.InferenceSession) -> None:
    assert malignant(graph, 35, 1, 1, 3) < 0.1
    assert malignant(graph, 75, 4, 5, 3) > 0.9


def test_one_measurement_is_enough_for_a_guess_on_the_right_side(graph: ort.InferenceSession) -> None:
    assert malignant(graph, NAN, 1, NAN, NAN) < 0.5 < malignant(graph, NAN, 4, NAN, NAN)
    assert malignant(graph, NAN, NAN, 1, NAN) < 0.5 < malignant(graph, NAN, NAN, 5, NAN)
    assert malignant(graph, 30, NAN, NAN, NAN) < 0.5 < malignant(graph, 85, NAN, NAN, NAN)


def test_what_was_not_recorded_tells_something(graph: ort.InferenceSession, data: Masses) -> None:
    unknown = data.masses.copy()
    unknown[:, 1:] = NAN
    differs = np.abs(probabilities(graph, unknown) - probabilities(graph, data.masses))[:, 1] > 1e-3
    assert differs.mean() > 0.95


def test_the_features_of_a_mass() -> None:
    features = encode(torch.tensor([[55.5, 2, NAN, 4], [NAN, 9, 1, NAN]]))
    assert features.shape == (2, FEATURES)
    scaled, unknown, shape, margin, density, together = torch.split(features, [1, 1, 5, 6, 5, 30], dim=1)
    assert scaled.flatten().tolist() == [0, 0]
    assert unknown.flatten().tolist() == [0, 1]
    assert shape.argmax(1).tolist() == [1, 4]
    assert margin.argmax(1).tolist() == [5, 0]
    assert density.argmax(1).tolist() == [3, 4]
    assert together.argmax(1).tolist() == [1 * 6 + 5, 4 * 6 + 0]
    for one_hot in (shape, margin, density, together):
        assert one_hot.sum(1).tolist() == [1, 1]


def test_hiding_takes_measurements_and_changes_none(data: Masses) -> None:
    masses = torch.from_numpy(data.masses)
    torch.manual_seed(0)
    hidden = hide(masses, 0.2)
    kept = ~hidden.isnan()
    assert torch.equal(hidden[kept], masses[kept])
    assert (kept != ~masses.isnan()).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(hide(masses, 0).isnan(), masses.isnan())


def test_folds_are_equal_and_stratified(data: Masses) -> None:
    parts = draw_parts(data.severity, 10, 3, seed=0)
    assert parts.shape == (3, 961)
    for part in parts:
        for severity in (0, 1):
            counts = np.bincount(part[data.severity == severity], minlength=10)
            assert counts.max() - counts.min() <= 1
        assert set(np.bincount(part)) == {96, 97}
    assert (parts[0] != parts[1]).any()
    np.testing.assert_array_equal(parts, draw_parts(data.severity, 10, 3, seed=0))


def test_networks_side_by_side_know_nothing_of_each_other() -> None:
    torch.manual_seed(0)
    networks = Perceptrons(3, 8)
    masses = torch.from_numpy(odd_masses())
    together = networks.log_odds(masses)
    together[:, 1].sum().backward()  # type: ignore[no-untyped-call]
    for index in (0, 2):
        assert networks.inner.grad is not None
        assert (networks.inner.grad[index] == 0).all()
    for index in range(3):
        torch.testing.assert_close(networks.pick(index).log_odds(masses)[:, 0], together[:, index])


def test_figures_of_a_clairvoyant_and_of_a_coin() -> None:
    severity = np.arange(200) % 2
    sure = np.repeat((severity * 40.0 - 20)[:, None], 2, axis=1)
    figures = measure(sure, severity, folds=10)
    assert [figures[name].value for name in ("accuracy", "area_under_roc", "sensitivity", "specificity")] == [1] * 4
    assert figures["calibration_error"].value == pytest.approx(0, abs=1e-6)
    coin = measure(np.zeros((200, 2)), severity, folds=10)
    assert coin["area_under_roc"].value == 0.5
    assert coin["brier_score"].value == 0.25


class Interrupted(Run):
    """A run that is cut off after ten epochs' checkpoint."""

    def log(self, epoch: int, **figures: float) -> None:
        if epoch > 10:
            raise KeyboardInterrupt
        super().log(epoch, **figures)


def test_the_same_seed_gives_the_same_networks_interrupted_or_not(tmp_path: Path, data: Masses) -> None:
    h = Hyperparameters(epochs=20, repeats=1)
    parts = draw_parts(data.severity, h.folds, h.repeats, seed=3)
    whole = fit(data, parts, h, Run("mammogram", tmp_path / "whole", seed=3)).state_dict()
    again = fit(data, parts, h, Run("mammogram", tmp_path / "again", seed=3)).state_dict()
    with pytest.raises(KeyboardInterrupt):
        fit(data, parts, h, Interrupted("mammogram", tmp_path / "cut", seed=3))
    resumed = fit(data, parts, h, Run("mammogram", tmp_path / "cut", seed=3, resume=True)).state_dict()
    other = fit(data, parts, h, Run("mammogram", tmp_path / "other", seed=4)).state_dict()
    for name, value in whole.items():
        assert torch.equal(again[name], value)
        assert torch.equal(resumed[name], value)
        assert not torch.equal(other[name], value)


def test_no_row_is_judged_by_a_network_that_learned_from_it(tmp_path: Path, data: Masses) -> None:
    """The truth of one row is turned round: its own held-out judgement must not change, others' must."""
    h = Hyperparameters(epochs=10, repeats=2)
    parts = draw_parts(data.severity, h.folds, h.repeats, seed=0)
    turned = Masses(data.masses, data.severity.copy())
    turned.severity[7] = 1 - turned.severity[7]
    before, after = (
        held_out(fit(rows, parts, h, Run("mammogram", tmp_path / str(i))), rows, parts)
        for i, rows in enumerate((data, turned))
    )
    assert before.shape == (961, 2)
    same_part = parts[:, 7] == parts.T
    np.testing.assert_array_equal(before[same_part], after[same_part])
    assert (before[~same_part] != after[~same_part]).mean() > 0.99


def test_the_figures_can_be_measured_again(tmp_path: Path, data: Masses) -> None:
    card = Card.read(MODEL)
    h = Hyperparameters(**card.training.hyperparameters)
    assert h == Hyperparameters()
    parts = draw_parts(data.severity, h.folds, h.repeats, card.training.seed)
    run = Run("mammogram", tmp_path / "1", seed=card.training.seed)
    log_odds = held_out(fit(data, parts, h, run), data, parts)
    accuracy = ((log_odds > 0) == (data.severity[:, None] == 1)).mean()
    area = np.mean([evaluate.area_under_roc(column, data.severity) for column in log_odds.T])
    assert accuracy == pytest.approx(card.figures["accuracy"].value, abs=2e-3)
    assert accuracy >= 0.81
    assert area == pytest.approx(card.figures["area_under_roc"].value, abs=1e-3)
    assert area >= 0.867


def test_smoke_goes_the_whole_way(tmp_path: Path) -> None:
    """And few steps already beat guessing: held out, the smoke run is right about four masses in five."""
    out = tmp_path / "mammogram/1"
    command = [sys.executable, "-m", "training", "mammogram", "--smoke", "--device", "cpu", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300, capture_output=True)
    card = Card.read(out)
    assert card.files == digests(out)
    assert set(card.files) == set(Card.read(MODEL).files)
    assert card.figures["accuracy"].value > 0.78
    assert card.figures["area_under_roc"].value > 0.85
