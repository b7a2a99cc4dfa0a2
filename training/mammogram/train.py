"""Classify mammographic masses with a perceptron of eight hidden units, trained on all 961 rows of the UCI data.

    python -m training train mammogram           # about a minute on one core
    python -m training train mammogram --smoke   # the whole way in a few steps

So few rows leave none for a test split. The figures come from stratified 10-fold cross-validation, repeated ten times:
each row is judged ten times by networks that were not trained on it. The served network is trained on all rows.

Rows with unknown measurements are kept: "unknown" is a level of shape, margin and density, and an unknown age is the
typical one with a flag. In the data, unknown means benign more often than not, because of whose records are incomplete;
a client who leaves a field out must not be reassured by that. So measurements are hidden at random in most rows.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from service.registry.card import GRAPHS, Card
from service.tasks.mammogram import SEVERITIES
from training import cards, version
from training.data.mammographic import MAMMOGRAPHIC_MASSES, Masses, load_masses
from training.mammogram import evaluate
from training.mammogram.evaluate import INPUT, OUTPUT, HeldOut, cross_validate
from training.mammogram.fit import Hyperparameters, fit
from training.mammogram.model import Perceptron
from training.run import Run

Floats = npt.NDArray[np.float32]

MODEL = "mammogram"

SMOKE = {"epochs": 30, "repeats": 1}


def train(h: Hyperparameters, run: Run) -> None:
    """Train, export and measure the perceptron; write the version `run.out`."""
    data = load_masses(run.data_dir)
    run.begin(h, data.masses, data.severity)
    held_out = cross_validate(data, lambda rows, seed: fit(rows, h, seed).judge, h.folds, h.repeats, run.seed, run)
    network = fit(data, h, run.seed)
    publish(network, held_out, data, h, run)


def publish(network: Perceptron, held_out: HeldOut, data: Masses, h: Hyperparameters, run: Run) -> Card:
    """Export and prove the network, and rename the version into place."""
    with version.VersionBuilder(run.out) as builder:
        graph = builder.directory / GRAPHS["float32"]
        free = {"masses": {0: "batch"}}
        version.export_graph(network, graph, {"masses": data.masses[:2]}, ("probabilities",), free)
        odd = odd_masses()
        batches = [*(data.masses[:size] for size in (1, 2, 7, 64, 961)), odd, *odd[:, None]]
        version.check_parity(network, graph, ({"masses": batch} for batch in batches))
        version.write_golden(network, builder.directory, {"masses": _golden_rows(data)}, ("probabilities",))
        measured = evaluate.measure_held_out(held_out, graph, data, h.folds)
        evaluate.plot(builder.directory, held_out, data.severity)
        card = Card(
            name=builder.out.parent.name,
            version=builder.out.name,
            **cards.card_text(Path(__file__).parent, "perceptron"),
            inputs=(INPUT,),
            outputs=(OUTPUT,),
            classes=SEVERITIES,
            figures=measured.figures,
            subgroups=measured.subgroups,
            baselines=evaluate.baselines(data, h.folds, h.repeats, run.seed),
            operating_points=evaluate.operating_points(held_out, data.severity, h.folds, run.seed),
            distributions=evaluate.distributions(graph, data),
            data=(MAMMOGRAPHIC_MASSES.describe(evaluate.splits(data, h.folds, h.repeats, run.seed)),),
            training=run.record(h),
            provenance=run.steps(h, quantised=False),
            files={},
        )
        return builder.publish(card, run)


def _golden_rows(data: Masses) -> Floats:
    """Return 16 complete rows and five with each measurement unknown."""
    unknown = np.isnan(data.masses)
    lacking = [np.flatnonzero(column)[:5] for column in unknown.T]
    rows = np.unique(np.concatenate([*lacking, np.flatnonzero(~unknown.any(1))[:16]]))
    golden: Floats = data.masses[rows]
    return golden


def odd_masses() -> Floats:
    """Return edge cases, float32 `[n, 4]`: one measurement known, none known, values out of range."""
    only_one = [[value if i == j else np.nan for i in range(4)] for j, value in enumerate((55, 4, 5, 3))]
    invalid = [[bad if i == j else 1 for i in range(4)] for j in range(4) for bad in (2.5, -1, 130, np.inf, -np.inf)]
    return np.array([*only_one, [np.nan] * 4, *invalid], np.float32)
