"""How the rows that the committed models were made from are distributed: what the cards say is what the data are."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.registry.card import PREDICTION, Card
from service.tasks.binding import find_task
from tests.places import MODELS, ROOT
from training import datasets, distributions, evaluate
from training.datasets import MNIST

VERSIONS = sorted(str(path.parent.relative_to(MODELS)) for path in MODELS.glob("*/*/card.json"))


def test_all_that_is_shipped_can_be_measured_anew() -> None:
    assert sorted(distributions.MEASURES) == VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_card_has_what_its_task_watches_and_what_it_predicts(version: str) -> None:
    directory = MODELS / version
    card = Card.read(directory)
    predictor = find_task(card.name)
    assert predictor is not None
    with np.load(directory / "golden.npz") as golden:
        features = predictor.features({spec.name: golden[f"in:{spec.name}"] for spec in card.inputs})
    assert set(card.distributions) == {*features, *([PREDICTION] if card.scores else [])}
    if card.scores:
        assert len(card.distributions[PREDICTION].edges) == len(card.classes) - 1


@pytest.mark.parametrize("version", ["mammogram/1", "fashion/1"])
def test_a_card_says_what_is_measured(version: str) -> None:
    measured = distributions.MEASURES[version](MODELS / version, None)
    for feature, found in measured.items():
        written = Card.read(MODELS / version).distributions[feature]
        assert found.edges == pytest.approx(written.edges, rel=1e-4)
        assert found.shares == pytest.approx(written.shares, abs=1e-3)
        assert (found.rows, found.how) == (written.rows, written.how)


def test_all_else_on_a_card_stays_as_it_is(tmp_path: Path) -> None:
    version = shutil.copytree(MODELS / "mammogram/1", tmp_path / "mammogram/1")
    Card.read(version).model_copy(update={"distributions": {}}).write(version)
    command = [sys.executable, "-m", "training.distributions", "mammogram/1", "--models-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "mammogram/1: age, shape, margin, density, prediction\n"
    assert (version / "card.json").read_text() == (MODELS / "mammogram/1/card.json").read_text()


def test_ink_and_its_place_on_the_card_are_those_of_the_training_pictures() -> None:
    predictor, card = find_task("digits"), Card.read(MODELS / "digits/2")
    assert predictor is not None
    training, _ = datasets.pictures(MNIST)[0].split(card.training.hyperparameters["held_out"], card.training.seed)
    features = predictor.features({"pictures": training.pictures})
    for feature, found in evaluate.distributions(features, "counted").items():
        assert found.edges == pytest.approx(card.distributions[feature].edges, rel=1e-4)
        assert found.rows == card.distributions[feature].rows


def test_few_different_values_have_a_bin_each() -> None:
    codes = np.array([1, 1, 2, 4, 4, 4, np.nan, 4], np.float32)
    found = evaluate.distributions({"code": codes}, "counted")["code"]
    assert (found.edges, found.shares, found.rows) == ((1.5, 3.0), (0.25, 0.125, 0.5, 0.125), 8)


def test_many_are_parted_by_their_deciles() -> None:
    values = np.random.default_rng(0).permutation(np.arange(1000))
    found = evaluate.distributions({"value": values}, "counted")["value"]
    assert found.shares == (*[0.1] * 10, 0.0)


def test_a_value_that_many_rows_share_is_not_parted() -> None:
    values = np.concatenate([np.zeros(350), np.arange(1, 651)])
    found = evaluate.distributions({"value": values}, "counted")["value"]
    assert found.edges[0] == 0
    assert found.shares == pytest.approx((0.35, 0.05, *[0.1] * 6, 0.0), abs=2e-3)
