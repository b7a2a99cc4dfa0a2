"""How good the mammogram model is, and what its card says: from the log-odds of rows that were held out."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import special

from service.registry.card import GRAPHS, PREDICTION, Card, Distribution, Figure, Training
from service.tasks.mammogram import LEVELS, MEASUREMENTS, SEVERITIES, MammogramTask
from service.tensors import TensorSpec
from training import evaluate, export
from training.datasets import MAMMOGRAPHIC_MASSES, Labels, Masses

Floats = npt.NDArray[np.floating]

INPUT = TensorSpec(
    name="masses",
    dtype="float32",
    shape=("batch", 4),
    meaning="age in years; "
    + "; ".join(
        f"{name}: " + ", ".join(f"{code} {level}" for code, level in enumerate(levels, 1))
        for name, levels in LEVELS.items()
    ),
    range="age 0 to 120, shape 1 to 4, margin 1 to 5, density 1 to 4; NaN and every other value: not known",
)
OUTPUT = TensorSpec(
    name="probabilities",
    dtype="float32",
    shape=("batch", 2),
    meaning="probability that the mass is benign, and that it is malignant",
    range="0 to 1, each row sums to 1",
)


def measure(log_odds: Floats, severity: Labels, folds: int) -> dict[str, Figure]:
    """The figures of the card: means over the repeats, with intervals from drawing rows, all repeats of each, anew.

    Args:
        log_odds: of malignancy, from networks that have not learned from the row, `[n, repeats]`.
        severity: `[n]`.
        folds: how many there were, for the wording.
    """
    malignant = special.expit(log_odds.astype(np.float64))
    repeats = malignant.shape[1]
    how = f"all {len(severity)} rows, each held out; mean of {repeats} x {folds}-fold stratified cross-validation"

    def over_repeats(statistic: Callable[[Floats, Labels], float], note: str = "") -> Figure:
        def mean(columns: Floats, labels: Labels) -> float:
            return float(np.mean([statistic(column, labels) for column in columns.T]))

        return evaluate.bootstrap(mean, malignant, severity, how=how + note)

    calibration = over_repeats(
        lambda p, y: evaluate.calibration_error(p, y == 1),
        "; 10 bins of the probability of malignancy; interval centred, since drawing rows anew adds to this error",
    )
    return {
        "accuracy": over_repeats(lambda p, y: float(((p > 0.5) == (y == 1)).mean())),
        "area_under_roc": over_repeats(evaluate.area_under_roc, "; rows of all folds ranked together"),
        "calibration_error": _centred(calibration),
        "brier_score": over_repeats(lambda p, y: float(np.square(p - y).mean())),
        "log_loss": over_repeats(lambda p, y: evaluate.log_loss(np.stack((1 - p, p), axis=1), y)),
        "sensitivity": over_repeats(lambda p, y: float((p[y == 1] > 0.5).mean()), "; malignant masses called so"),
        "specificity": over_repeats(lambda p, y: float((p[y == 0] <= 0.5).mean()), "; benign masses called so"),
        "best_temperature": _best_temperature(log_odds, severity),
    }


def _centred(figure: Figure) -> Figure:
    """The interval moved to lie around the value; no lower than 0."""
    assert figure.low is not None
    assert figure.high is not None
    half = (figure.high - figure.low) / 2
    return figure.model_copy(update={"low": max(0.0, figure.value - half), "high": figure.value + half})


def _best_temperature(log_odds: Floats, severity: Labels) -> Figure:
    logits = np.stack((np.zeros(log_odds.size), log_odds.T.ravel().astype(np.float64)), axis=1)
    temperature = evaluate.fit_temperature(logits.astype(np.float64), np.tile(severity, log_odds.shape[1]))
    return Figure(value=temperature, how="what the held-out log-odds had best be divided by; none is applied")


def distributions(graph: Path, data: Masses) -> dict[str, Distribution]:
    """How the masses, and what the graph makes of them, are distributed."""
    inputs = {INPUT.name: data.masses}
    (probabilities,) = export.session(graph).run(None, inputs)
    features = {**MammogramTask.features(inputs), PREDICTION: probabilities.argmax(1)}
    return evaluate.distributions(features, f"all {len(data.masses)} rows")


def plot(directory: Path, log_odds: Floats, severity: Labels, history: Sequence[dict[str, float]]) -> None:
    """Learning curve; confusion matrix of the first repeat; reliability diagram of all repeats.

    Args:
        directory: the model directory.
        log_odds: as `measure` takes them.
        severity: `[n]`.
        history: the figures of each epoch.
    """
    malignant = special.expit(log_odds)
    predicted = (malignant[:, 0] > 0.5).astype(np.int64)
    came_true = np.tile(severity == 1, malignant.shape[1])
    evaluate.plot_learning_curve(history, directory / "learning_curve.png")
    evaluate.plot_confusion(predicted, severity, SEVERITIES, directory / "confusion_matrix.png")
    evaluate.plot_reliability(malignant.T.ravel(), came_true, directory / "reliability.png")


def write_card(directory: Path, log_odds: Floats, data: Masses, folds: int, training: Training) -> Card:
    """What the version is, how good, made from what, and what for; `log_odds` as `measure` takes them."""
    return export.write_card(
        directory,
        title="Mammographic masses, multi-layer perceptron",
        task="Is the mass benign or malignant",
        inputs=(INPUT,),
        outputs=(OUTPUT,),
        classes=SEVERITIES,
        figures=measure(log_odds, data.severity, folds),
        distributions=distributions(directory / GRAPHS["float32"], data),
        data=(MAMMOGRAPHIC_MASSES.describe(_splits(data, folds, log_odds.shape[1], training.seed)),),
        training=training,
        intended_use="Decision support and teaching: an estimate for a physician to weigh who has seen the mammogram. "
        "Not a diagnosis, and no medical device.",
        limits=(
            "Learned from 961 masses seen at one German university hospital between 2003 and 2006 and suspicious "
            "enough to be followed up: untested for screening, on other machines and on other populations.",
            "About one in five of either severity is taken for the other: read the probability, not the label alone.",
            "With little known the estimate is rough: few rows of the data lack two measurements, none more.",
            "Patients were 18 to 96 years old, few of them under 25 or over 85.",
        ),
    )


def _splits(data: Masses, folds: int, repeats: int, seed: int) -> dict[str, str]:
    severities = ", ".join(f"{n} {name}" for n, name in zip(np.bincount(data.severity), SEVERITIES, strict=True))
    absent = np.isnan(data.masses).sum(0)
    not_recorded = ", ".join(f"{name} {n}" for n, name in zip(absent, MEASUREMENTS, strict=True))
    return {
        "all": f"{len(data.severity)} rows: {severities}; not recorded: {not_recorded}. No row is left out. The "
        "BI-RADS column is: it is the radiologist's own assessment of how suspicious the mass is, no measurement of it",
        "training": "all rows, for the network that is served",
        "test": f"each of {folds} folds in turn, {repeats} times, drawn with seed {seed}, by networks that were taught "
        "by the other folds alone",
        "selection": "hyperparameters and features were chosen beforehand, by cross-validation on folds drawn with "
        "seed 1000; those are the same rows in other folds, so a little optimism may remain",
    }
