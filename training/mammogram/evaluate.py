"""Measure a version of `mammogram` by cross-validation: there are too few rows for a test split.

Figures are means over the repeats of stratified cross-validation; intervals come from drawing rows with replacement,
all repeats of a row together.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import RepeatedStratifiedKFold, StratifiedKFold

from service.engine.session import Precision
from service.registry.card import GRAPHS, PREDICTION, Card, Distribution, Figure, OperatingPoint
from service.tasks.mammogram import LEVELS, MEASUREMENTS, SEVERITIES, MammogramTask
from service.tensors import TensorSpec
from training import metrics, plots
from training.data.mammographic import Labels, Masses, load_masses
from training.mammogram.fit import Hyperparameters, fit
from training.mammogram.model import encode
from training.metrics import Figures, Measurement
from training.run import Run
from training.version import open_session

Floats = npt.NDArray[np.floating]
Subset = tuple[str, ...]
"""Names of the known measurements."""
HeldOut = dict[Subset, Floats]
"""Log-odds of malignancy by networks that were not trained on the row, `[n, repeats]`, with others than the subset's
measurements hidden."""
Judge = Callable[[npt.NDArray[np.float32]], Floats]
"""A trained model: masses, float32 `[n, 4]`, to log-odds, `[n]`."""

SUBSETS: tuple[Subset, ...] = tuple(
    subset for size in range(1, 5) for subset in itertools.combinations(MEASUREMENTS, size)
)
ALL = SUBSETS[-1]
AGE_BANDS = {
    "age under 40": (0, 40),
    "age 40 to 49": (40, 50),
    "age 50 to 59": (50, 60),
    "age 60 to 69": (60, 70),
    "age 70 and over": (70, 200),
}
TARGET_SENSITIVITY = 0.95
RESAMPLES = 300
AGREEMENT = 0.003
"""Largest difference from the card: the networks are trained again, and other processors round differently."""

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


def cross_validate(
    data: Masses, train: Callable[[Masses, int], Judge], folds: int, repeats: int, seed: int, run: Run | None = None
) -> HeldOut:
    """Return held-out log-odds for every subset of known measurements.

    Args:
        data: all rows.
        train: of some rows and a seed, to a trained model.
        folds: of each repeat, stratified by severity.
        repeats: with folds drawn anew.
        seed: of the folds; model number i is trained with seed + i.
        run: keeps the log and a checkpoint after each repeat.
    """
    held_out = {subset: np.full((len(data.severity), repeats), np.nan, np.float32) for subset in SUBSETS}
    first = 0
    if run is not None and (state := run.restore()) is not None:
        first = state["epoch"]
        held_out = {subset: state["held_out"][" ".join(subset)].numpy() for subset in SUBSETS}
    folding = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
    partitions = list(folding.split(data.masses, data.severity))
    for repeat in range(first, repeats):
        for index in range(repeat * folds, (repeat + 1) * folds):
            rows, tested = partitions[index]
            judge = train(Masses(data.masses[rows], data.severity[rows]), seed + index)
            for subset in SUBSETS:
                held_out[subset][tested, repeat] = judge(hide_others(data.masses[tested], subset))
        if run is not None:
            malignant = special.expit(held_out[ALL][:, [repeat]])
            figures = {name: float(values.mean()) for name, values in row_values(malignant, data.severity).items()}
            run.log(repeat + 1, **figures, area_under_roc=_area_under_roc(malignant, data.severity))
            run.save(repeat + 1, held_out={" ".join(key): torch.from_numpy(held_out[key]) for key in SUBSETS})
    return held_out


def hide_others(masses: npt.NDArray[np.float32], subset: Subset) -> npt.NDArray[np.float32]:
    """Return the masses with all measurements outside `subset` unknown."""
    return np.where([name in subset for name in MEASUREMENTS], masses, np.float32(np.nan))


def row_values(malignant: Floats, severity: Labels) -> dict[str, Floats]:
    """Return the figures that are means over rows, for each row, `[n]`; `malignant` is probabilities `[n, repeats]`."""
    labels = severity[:, None]
    true = np.where(labels == 1, malignant, 1 - malignant)
    return {
        "accuracy": ((malignant > 0.5) == (labels == 1)).mean(1),
        "brier_score": np.square(malignant - labels).mean(1),
        "log_loss": -np.log(np.maximum(true, 1e-12)).mean(1),
    }


def _area_under_roc(malignant: Floats, severity: Labels) -> float:
    """Return the mean over the repeats."""
    return float(np.mean([roc_auc_score(severity, column) for column in malignant.T]))


def measure(directory: Path, precision: Precision, data_dir: Path | None) -> Measurement:
    """Cross-validate the procedure that made the version, and measure its graph on the rows it was trained on."""
    data, made = load_masses(data_dir), Card.read(directory).training
    h = Hyperparameters(**made.hyperparameters)
    held_out = cross_validate(data, lambda rows, seed: fit(rows, h, seed).judge, h.folds, h.repeats, made.seed)
    return measure_held_out(held_out, directory / GRAPHS[precision], data, h.folds)


def measure_held_out(held_out: HeldOut, graph: Path, data: Masses, folds: int) -> Measurement:
    """Return figures of held-out rows, by age band and by known measurements, and of the served graph itself."""
    malignant, severity = special.expit(held_out[ALL].astype(np.float64)), data.severity
    repeats = f"{malignant.shape[1]} x {folds}-fold stratified cross-validation"
    how = f"all {len(severity)} rows, each held out; mean of {repeats}"
    errors = {subset: _calibration_error(held_out[subset], severity) for subset in SUBSETS}
    worst = max(errors, key=lambda subset: errors[subset])
    figures = _figures(malignant, severity, how) | {
        "calibration_error": _calibration_figure(malignant, severity, how),
        "calibration_error_worst_subset": Figure(
            value=errors[worst], how=f"{how}; the same with only {', '.join(worst)} known, the worst of 15 subsets"
        ),
        "sensitivity": _rate(malignant, severity, 1, 0.5, f"{how}; malignant masses with probability over 0.5"),
        "specificity": _rate(malignant, severity, 0, 0.5, f"{how}; benign masses with probability up to 0.5"),
        "area_under_roc_trained_rows": Figure(
            value=float(roc_auc_score(severity, _read(graph, data.masses)[:, 1])),
            how="the served graph on the rows it was trained on: optimistic, and only a check of the file",
        ),
    }
    return Measurement(
        figures=figures,
        per_row=row_values(malignant, severity),
        subgroups=_by_age(held_out[ALL], data, how) | _by_subset(held_out, severity, how),
    )


def _figures(malignant: Floats, severity: Labels, how: str) -> Figures:
    means = {name: metrics.mean(values, how) for name, values in row_values(malignant, severity).items()}
    area = metrics.bootstrap(_area_under_roc, malignant, severity, how=how, resamples=RESAMPLES)
    return {"accuracy": means.pop("accuracy"), "area_under_roc": area, **means}


def _rate(malignant: Floats, severity: Labels, of: int, threshold: float, how: str) -> Figure:
    """Return the share of rows of severity `of` on their side of the threshold, as a mean over the repeats."""
    hits = ((malignant[severity == of] > threshold) == (of == 1)).mean(1)
    return metrics.mean(hits, how)


def _calibration_error(log_odds: Floats, severity: Labels) -> float:
    columns = special.expit(log_odds.astype(np.float64)).T
    return float(np.mean([metrics.calibration_error(column, severity == 1) for column in columns]))


def _calibration_figure(malignant: Floats, severity: Labels, how: str) -> Figure:
    chance = metrics.calibration_figure(malignant[:, 0], severity == 1, how)
    errors = [metrics.calibration_error(column, severity == 1) for column in malignant.T]
    return chance.model_copy(update={"value": float(np.mean(errors))})


def _by_age(log_odds: Floats, data: Masses, how: str) -> dict[str, Figures]:
    groups: dict[str, Figures] = {}
    for name, (low, high) in AGE_BANDS.items():
        rows = (data.masses[:, 0] >= low) & (data.masses[:, 0] < high)
        size = f"{rows.sum()} rows, {data.severity[rows].sum()} malignant"
        groups[f"{name} ({size})"] = _of_group(log_odds[rows], data.severity[rows], f"{how}; {size}; threshold 0.5")
    return groups


def _by_subset(held_out: HeldOut, severity: Labels, how: str) -> dict[str, Figures]:
    note = f"{how}; other measurements hidden; threshold 0.5"
    return {f"only {', '.join(s)} known": _of_group(held_out[s], severity, note) for s in SUBSETS if s != ALL}


def _of_group(log_odds: Floats, severity: Labels, how: str) -> Figures:
    malignant = special.expit(log_odds.astype(np.float64))
    return {
        "sensitivity": _rate(malignant, severity, 1, 0.5, how),
        "specificity": _rate(malignant, severity, 0, 0.5, how),
        "area_under_roc": Figure(value=_area_under_roc(malignant, severity), how=how),
        "calibration_error": Figure(value=_calibration_error(log_odds, severity), how=how),
    }


def operating_points(held_out: HeldOut, severity: Labels, folds: int, seed: int) -> tuple[OperatingPoint, ...]:
    """Return a threshold at `TARGET_SENSITIVITY`, and the one of the likelier severity.

    Rates are cross-validated: the threshold that judges a row is chosen on other folds.
    """
    malignant = special.expit(held_out[ALL].astype(np.float64))
    calls = np.zeros(malignant.shape)
    for repeat, column in enumerate(malignant.T):
        folding = StratifiedKFold(folds, shuffle=True, random_state=seed + 1 + repeat)
        for rest, tested in folding.split(column, severity):
            calls[tested, repeat] = column[tested] > _threshold(column[rest], severity[rest])
    how = f"{len(severity)} held-out rows, mean of {malignant.shape[1]} repeats"
    sensitive = OperatingPoint(
        name="high sensitivity",
        threshold=round(float(np.mean([_threshold(column, severity) for column in malignant.T])), 3),
        sensitivity=_rate(calls, severity, 1, 0.5, f"{how}; thresholds chosen on other folds for {TARGET_SENSITIVITY}"),
        specificity=_rate(calls, severity, 0, 0.5, f"{how}; thresholds chosen on other folds"),
    )
    likelier = OperatingPoint(
        name="likelier severity",
        threshold=0.5,
        sensitivity=_rate(malignant, severity, 1, 0.5, how),
        specificity=_rate(malignant, severity, 0, 0.5, how),
    )
    return sensitive, likelier


def _threshold(malignant: Floats, severity: Labels) -> float:
    """Return the highest threshold that at least `TARGET_SENSITIVITY` of the malignant rows exceed."""
    return float(np.quantile(malignant[severity == 1], 1 - TARGET_SENSITIVITY, method="lower")) - 1e-9


def measure_baselines(directory: Path, data_dir: Path | None) -> dict[str, Figures]:
    """Cross-validate logistic regression on the folds of the version in `directory`."""
    made = Card.read(directory).training
    folds, repeats = made.hyperparameters["folds"], made.hyperparameters["repeats"]
    return baselines(load_masses(data_dir), folds, repeats, made.seed)


def baselines(data: Masses, folds: int, repeats: int, seed: int) -> dict[str, Figures]:
    """Cross-validate logistic regression on the network's features, on the same folds."""

    def train(rows: Masses, _: int) -> Judge:
        regression = LogisticRegression(C=1.0, max_iter=1000).fit(_features(rows.masses), rows.severity)
        return lambda masses: regression.decision_function(_features(masses))

    held_out = cross_validate(data, train, folds, repeats, seed)
    malignant = special.expit(held_out[ALL].astype(np.float64))
    how = f"logistic regression with pairs of shape and margin, on the same folds of {len(data.severity)} rows"
    errors = {subset: _calibration_error(held_out[subset], data.severity) for subset in SUBSETS}
    figures = _figures(malignant, data.severity, how) | {
        "calibration_error": _calibration_figure(malignant, data.severity, how),
        "calibration_error_worst_subset": Figure(value=max(errors.values()), how=how),
        "sensitivity": _rate(malignant, data.severity, 1, 0.5, how),
        "specificity": _rate(malignant, data.severity, 0, 0.5, how),
    }
    return {"logistic regression": figures}


def _features(masses: npt.NDArray[np.float32]) -> Floats:
    features: Floats = encode(torch.from_numpy(masses)).numpy()
    return features


def measure_distributions(directory: Path, data_dir: Path | None) -> dict[str, Distribution]:
    """Measure the distributions of all rows."""
    return distributions(directory / GRAPHS["float32"], load_masses(data_dir))


def distributions(graph: Path, data: Masses) -> dict[str, Distribution]:
    """Return the distributions of the measurements and of the graph's predictions."""
    features = {
        **MammogramTask.features({INPUT.name: data.masses}),
        PREDICTION: _read(graph, data.masses).argmax(1),
    }
    return metrics.measure_distributions(features, f"all {len(data.masses)} rows")


def _read(graph: Path, masses: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = open_session(graph).run(None, {INPUT.name: masses})[0]
    return found


def plot(directory: Path, held_out: HeldOut, severity: Labels) -> None:
    """Draw the confusion matrix of the first repeat, and reliability and ROC of all repeats."""
    malignant = special.expit(held_out[ALL].astype(np.float64))
    labels = np.tile(severity, malignant.shape[1])
    predicted = (malignant[:, 0] > 0.5).astype(np.int64)
    plots.plot_confusion(predicted, severity, SEVERITIES, directory / "confusion_matrix.png")
    plots.plot_reliability(malignant.T.ravel(), labels == 1, directory / "reliability.png")
    plots.plot_roc(malignant.T.ravel(), labels, directory / "roc.png")


def splits(data: Masses, folds: int, repeats: int, seed: int) -> dict[str, str]:
    """Return the card's description of the rows."""
    severities = ", ".join(f"{n} {name}" for n, name in zip(np.bincount(data.severity), SEVERITIES, strict=True))
    absent = np.isnan(data.masses).sum(0)
    unknown = ", ".join(f"{name} {n}" for n, name in zip(absent, MEASUREMENTS, strict=True))
    distinct = len(np.unique(np.nan_to_num(np.column_stack((data.masses, data.severity)), nan=-1), axis=0))
    return {
        "all": f"{len(data.severity)} rows: {severities}; not recorded: {unknown}. No row is left out; "
        f"{len(data.severity) - distinct} repeat another one. The BI-RADS column is left out: it is the radiologist's "
        "own assessment of how suspicious the mass is, no measurement of it",
        "training": "all rows, for the network that is served",
        "test": f"each of {folds} folds in turn, {repeats} times, drawn with seed {seed}, by networks that were "
        "trained on the other folds alone",
        "selection": "hyperparameters and features were chosen beforehand, by cross-validation on folds drawn with "
        "seeds 1000 and up; those are the same rows in other folds, so a little optimism may remain",
    }
