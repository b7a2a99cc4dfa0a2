"""The mammogram model that is committed, from its graph, and the training that made it."""

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
from tests.paths import MODELS
from training import version
from training.data.mammographic import Masses, load_masses
from training.mammogram import evaluate
from training.mammogram.evaluate import SUBSETS, HeldOut, cross_validate, hide_others, operating_points
from training.mammogram.fit import Hyperparameters, fit
from training.mammogram.model import FEATURES, encode, feature_dropout
from training.run import Run

MODEL = max((MODELS / "mammogram").glob("[0-9]*"))
NAN = np.nan

Floats = npt.NDArray[np.float32]

MEASUREMENTS = st.tuples(
    st.just(NAN) | st.integers(0, 120), *(st.just(NAN) | st.integers(1, len(names)) for names in LEVELS.values())
)


@pytest.fixture(scope="module")
def graph() -> ort.InferenceSession:
    return version.open_session(MODEL / "model.onnx")


@pytest.fixture(scope="module")
def data() -> Masses:
    return load_masses()


def probabilities(graph: ort.InferenceSession, masses: npt.ArrayLike) -> Floats:
    (found,) = graph.run(None, {"masses": np.asarray(masses, np.float32)})
    assert isinstance(found, np.ndarray)
    return found


def malignant(graph: ort.InferenceSession, *mass: float) -> float:
    return float(probabilities(graph, [mass])[0, 1])


def test_the_card_meets_the_bars() -> None:
    figures = Card.read(MODEL).figures
    assert figures["accuracy"].value >= 0.80
    assert figures["area_under_roc"].value >= 0.867
    assert figures["calibration_error"].value <= 0.04
    assert figures["brier_score"].value <= 0.145
    for name in ("accuracy", "area_under_roc", "brier_score", "log_loss", "sensitivity", "specificity"):
        low, high = figures[name].low, figures[name].high
        assert low is not None
        assert high is not None
        assert low < figures[name].value < high, name


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


def test_hiding_fields_does_not_reassure(graph: ort.InferenceSession, data: Masses) -> None:
    """Mean predicted risk stays near the prevalence, whatever is hidden from everyone."""
    prevalence = data.severity.mean()
    for subset in SUBSETS:
        mean_risk = probabilities(graph, hide_others(data.masses, subset))[:, 1].mean()
        assert mean_risk == pytest.approx(prevalence, abs=0.05), subset


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


def test_feature_dropout_hides_measurements_and_changes_none(data: Masses) -> None:
    masses = torch.from_numpy(data.masses)
    torch.manual_seed(0)
    hidden = feature_dropout(masses, 0.2)
    kept = ~hidden.isnan()
    assert torch.equal(hidden[kept], masses[kept])
    assert (kept != ~masses.isnan()).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(feature_dropout(masses, 0).isnan(), masses.isnan())


def held_out_log_odds(data: Masses, run: Run | None = None, seed: int = 3, **changes: int) -> HeldOut:
    h = Hyperparameters(**{"epochs": 5, "folds": 3, "repeats": 2, **changes})
    return cross_validate(data, lambda rows, each: fit(rows, h, each).judge, h.folds, h.repeats, seed, run)


class Interrupted(Run):
    """A run that is cut off after the first repeat's checkpoint."""

    def log(self, epoch: int, **figures: float) -> None:
        if epoch > 1:
            raise KeyboardInterrupt
        super().log(epoch, **figures)


def test_the_same_seed_gives_the_same_judgements_interrupted_or_not(tmp_path: Path, data: Masses) -> None:
    whole, other = held_out_log_odds(data), held_out_log_odds(data, seed=4)
    cut = Interrupted("mammogram", tmp_path / "1", seed=3)
    cut.begin(Hyperparameters(), data.masses)
    with pytest.raises(KeyboardInterrupt):
        held_out_log_odds(data, cut)
    again = Run("mammogram", tmp_path / "1", seed=3, resume=True)
    again.begin(Hyperparameters(), data.masses)
    resumed = held_out_log_odds(data, again)
    assert again.history[0]["epoch"] == 1
    for subset in SUBSETS:
        np.testing.assert_array_equal(whole[subset], resumed[subset])
        assert (whole[subset] != other[subset]).mean() > 0.9


def test_no_row_is_judged_by_a_model_trained_on_it() -> None:
    masses = np.ones((120, 4), np.float32)
    masses[:, 0] = np.arange(120)  # the age names the row
    judged: list[float] = []

    def train(rows: Masses, _: int) -> evaluate.Judge:
        trained = set(rows.masses[:, 0])

        def judge(tested: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            assert not trained & set(tested[:, 0])
            judged.extend(tested[:, 0][~np.isnan(tested).any(1)])
            return np.zeros(len(tested), np.float32)

        return judge

    cross_validate(Masses(masses, np.arange(120) % 2), train, folds=10, repeats=3, seed=0)
    assert sorted(judged) == sorted([*range(120)] * 3)


def held_out_of(log_odds: np.ndarray) -> HeldOut:
    return dict.fromkeys(SUBSETS, np.repeat(log_odds[:, None], 2, axis=1).astype(np.float32))


def test_figures_of_a_clairvoyant_and_of_a_coin(data: Masses) -> None:
    sure = evaluate.measure_held_out(
        held_out_of(data.severity * 20.0 - 10), MODEL / "model.onnx", data, folds=10
    ).figures
    assert [sure[name].value for name in ("accuracy", "area_under_roc", "sensitivity", "specificity")] == [1] * 4
    assert sure["calibration_error"].value == pytest.approx(0, abs=1e-3)
    coin = evaluate.measure_held_out(held_out_of(np.zeros(961)), MODEL / "model.onnx", data, folds=10).figures
    assert coin["area_under_roc"].value == 0.5
    assert coin["brier_score"].value == 0.25


def test_the_operating_point_reaches_its_sensitivity_on_other_folds(data: Masses) -> None:
    generator = np.random.default_rng(0)
    log_odds = generator.normal(2.0 * data.severity - 1, 1)
    sensitive, likelier = operating_points(held_out_of(log_odds), data.severity, folds=10, seed=0)
    assert sensitive.sensitivity.value == pytest.approx(0.95, abs=0.02)
    assert sensitive.threshold < likelier.threshold
    assert sensitive.specificity.value < likelier.specificity.value


def test_the_card_has_the_women_under_50() -> None:
    subgroups = Card.read(MODEL).subgroups
    young = [figures for name, figures in subgroups.items() if name.startswith(("age under 40", "age 40"))]
    old = next(figures for name, figures in subgroups.items() if name.startswith("age 70"))
    assert len(young) == 2
    assert all(figures["sensitivity"].value < old["sensitivity"].value for figures in young)
