"""Any version is measured from its graph, and a candidate worse than what serves fails the command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from service.registry.card import PREDICTION, Card
from service.registry.verification import verify_files
from service.tasks import TASKS
from tests.paths import MODELS
from training import evaluate
from training.__main__ import main
from training.ledger import ledger_of
from training.metrics import Measurement, proportion
from training.version import write_card

VERSIONS = sorted(str(path.parent.relative_to(MODELS)) for path in MODELS.glob("*/*/card.json"))


def status(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a smoke version of mammogram, whose test is cross-validation in a few seconds."""
    models = tmp_path_factory.mktemp("evaluated") / "models"
    main(["train", "mammogram", "--smoke", "--device", "cpu", "--out", str(models / "mammogram" / "1")])
    return models


def version(models: Path, number: str, **hyperparameters: object) -> Path:
    """A copy of version 1 that was made with other hyperparameters."""
    made = Path(shutil.copytree(models / "mammogram" / "1", models / "mammogram" / number))
    card = Card.read(made)
    changed = card.training.model_copy(update={"hyperparameters": card.training.hyperparameters | hyperparameters})
    write_card(made, card.model_copy(update={"version": number, "training": changed}))
    return made


def test_a_candidate_is_compared_with_what_serves(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Path(shutil.copytree(models, tmp_path / "models"))
    candidates = Path(shutil.copytree(models, tmp_path / "candidates"))
    good, bad = version(candidates, "2"), version(candidates, "3", epochs=1)
    assert status("evaluate", good, "--models-dir", here) == 0
    told = capsys.readouterr().out
    assert "| accuracy | +0.00000 |" in told
    assert "worse" not in told
    assert status("evaluate", bad, "--models-dir", here) == 1
    assert "worse by more than 0.002" in capsys.readouterr().out
    assert status("evaluate", bad, "--models-dir", here, "--margin", "0.9") == 0
    ledger = ledger_of(here, "mammogram").read_text().splitlines()
    assert len(ledger) == 1  # the copies hold one graph
    assert "accuracy" in json.loads(ledger[0])["text"]


def test_figures_that_differ_from_the_card_are_named(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Path(shutil.copytree(models, tmp_path / "models"))
    assert status("evaluate", "--models-dir", here) == 0
    directory = here / "mammogram" / "1"
    card = Card.read(directory)
    wrong = card.figures["accuracy"].model_copy(update={"value": 0.99, "high": 1.0})
    write_card(directory, card.model_copy(update={"figures": card.figures | {"accuracy": wrong}}))
    capsys.readouterr()
    assert status("evaluate", "--models-dir", here) == 1
    assert "accuracy in float32" in capsys.readouterr().err
    assert status("evaluate", "--models-dir", here, "--write") == 0
    written = Card.read(directory)
    assert written.figures["accuracy"].value == pytest.approx(card.figures["accuracy"].value)
    assert [step.action for step in written.provenance] == ["trained", "exported", "measured"]
    assert written.provenance[-1].command == "python -m training evaluate --write"
    verify_files(directory)


def test_pairs_of_rows_tell_what_means_do_not() -> None:
    how = "a test"
    hits = [[True] * 90 + [False] * 10, [True] * 85 + [False] * 15]
    better, worse = (
        Measurement({"accuracy": proportion(rows, how)}, {"accuracy": rows.astype(float)})
        for rows in (np.array(row) for row in hits)
    )
    difference = evaluate.paired(worse, better)["accuracy"]
    assert difference.value == pytest.approx(-0.05)
    assert difference.high is not None
    assert difference.high < 0
    assert evaluate.is_worse("accuracy", difference, 0.002)
    assert not evaluate.is_worse("accuracy", difference, 0.06)
    assert not evaluate.is_worse("log_loss", difference, 0.002)
    assert evaluate.is_worse("log_loss", evaluate.paired(better, worse)["accuracy"], 0.002)


def test_distributions_are_measured_anew_and_all_else_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = shutil.copytree(MODELS / "mammogram" / "1", tmp_path / "mammogram" / "1")
    before = Card.read(directory)
    write_card(directory, before.model_copy(update={"distributions": {}}))
    main(["distributions", str(directory)])
    assert capsys.readouterr().out == f"{directory}: age, shape, margin, density, prediction\n"
    after = Card.read(directory)
    for feature, found in after.distributions.items():
        assert found.edges == pytest.approx(before.distributions[feature].edges, rel=1e-4)
        assert found.shares == pytest.approx(before.distributions[feature].shares, abs=1e-3)
    assert after.model_copy(update={"distributions": before.distributions}) == before


@pytest.mark.parametrize("version", VERSIONS)
def test_a_card_has_the_features_that_its_task_watches(version: str) -> None:
    directory = MODELS / version
    card = Card.read(directory)
    golden = directory / "golden.npz"
    features = TASKS[card.name].features({spec.name: _read(golden, f"in:{spec.name}") for spec in card.inputs})
    assert set(card.distributions) == {*features, *([PREDICTION] if card.scores else [])}
    if card.scores:
        assert len(card.distributions[PREDICTION].edges) == len(card.classes) - 1


def _read(golden: Path, name: str) -> np.ndarray:
    with np.load(golden) as arrays:
        return arrays[name]
