"""Features are counted in the bins of the card, which shows how far requests are from the data of a version."""

import math
import random
import shutil
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families as parse

from service.inference.binding import bind
from service.observability import metrics
from service.observability.drift import MAX_BINS, MEASURED, SAMPLED_PER_SECOND, Sample, count_by_bin
from service.observability.exposition import TEXT, exposition
from service.observability.series import flush
from service.registry.card import Card
from service.registry.registry import ModelRegistry
from service.settings import Settings
from service.tasks.digits import DigitsTask
from service.tasks.fashion import FashionTask, latents
from service.tasks.mammogram import MammogramTask
from service.tasks.sentiment import ReviewReader, SentimentTask, pad
from service.tensors import Tensors
from tests.drift_index import by_bin, indices, rows, stability_index
from tests.paths import MODELS
from training.data.images import MNIST, load_images
from training.data.imdb import load_reviews
from training.data.mammographic import load_masses

TASKS = (DigitsTask, FashionTask, MammogramTask, SentimentTask)
ROWS = 1000
MANY = 50
"""The number of rows of a request."""


@pytest.fixture(scope="module")
def models() -> ModelRegistry:
    withdraw_expected_shares()
    models = ModelRegistry(Settings(models_dir=MODELS), bind)
    for task in TASKS:
        assert not models.load(task.name, [max(path.name for path in (MODELS / task.name).iterdir())], None)
    return models


def withdraw_expected_shares() -> None:
    """Withdraw what other tests of this process have exposed, perhaps from another card of the same version."""
    for family in parse(told()):
        for sample in family.samples:
            if sample.name == "deepserve_drift_expected_share":
                labels = (sample.labels[name] for name in metrics.DRIFT_EXPECTED_SHARE.label_names)
                metrics.DRIFT_EXPECTED_SHARE.labels(*labels).withdraw()


@cache
def pictures() -> Tensors:
    return {"pictures": load_images(MNIST)[1].pictures[:ROWS]}


def masses() -> Tensors:
    return {"masses": load_masses().masses}


@cache
def reviews() -> Tensors:
    _, test = load_reviews()
    reader = ReviewReader.of(MODELS / "sentiment" / "2")
    rows = np.random.default_rng(0).permutation(len(test))[:ROWS]
    return {"tokens": pad([reader.read(test.texts[row]).ids for row in rows])}


def orders() -> Tensors:
    return {"latent": latents(1, ROWS), "label": np.zeros(ROWS, np.int64)}


def inverted() -> Tensors:
    return {name: 255 - values for name, values in pictures().items()}


def in_a_corner() -> Tensors:
    return {name: np.roll(values, (-4, -4), (1, 2)) for name, values in pictures().items()}


def only_sevens() -> Tensors:
    _, test = load_images(MNIST)
    return {"pictures": test.pictures[test.labels == 7]}


def of_old_patients() -> Tensors:
    return {name: np.tile(values[values[:, 0] >= 65], (4, 1)) for name, values in masses().items()}


def without_density() -> Tensors:
    return {name: np.where(np.arange(4) == 3, np.nan, values).astype(np.float32) for name, values in masses().items()}


def short_reviews() -> Tensors:
    return {name: values[:, :30] for name, values in reviews().items()}


def in_another_language() -> Tensors:
    foreign = np.random.default_rng(0).random((ROWS, 1024)) < 0.3
    return {name: np.where(values * foreign[:, : values.shape[1]], 1, values) for name, values in reviews().items()}


def latents_of_another_kind() -> Tensors:
    uniform = np.random.default_rng(0).random((ROWS, 64), np.float32)
    return {"latent": uniform, "label": np.zeros(ROWS, np.int64)}


def told() -> str:
    """The text of `/metrics`."""
    flush()
    return exposition(TEXT)[0].decode()


def ask(models: ModelRegistry, name: str, inputs: Tensors) -> dict[str, float]:
    """Load a version, send it `inputs`, and return the index of each feature."""
    models.unload(name, list(models.models[name].versions))
    models.load(name, [max(path.name for path in (MODELS / name).iterdir())], None)
    served = models.find(name, None)
    before = told()
    for first in range(0, len(next(iter(inputs.values()))), MANY):
        some = {each: values[first : first + MANY] for each, values in inputs.items()}
        served.drift.observe(some, served.session.run(some))
    return indices(before, told(), name, served.number)


@pytest.mark.parametrize(
    ("name", "usual"), [("digits", pictures), ("mammogram", masses), ("sentiment", reviews), ("fashion", orders)]
)
def test_real_requests_have_not_drifted(models: ModelRegistry, name: str, usual: Callable[[], Tensors]) -> None:
    found = ask(models, name, usual())
    assert found
    assert max(found.values()) < 0.1, found


@pytest.mark.parametrize(
    ("name", "feature", "other"),
    [
        ("digits", "ink", inverted),
        ("digits", "off_centre", in_a_corner),
        ("digits", "prediction", only_sevens),
        ("mammogram", "age", of_old_patients),
        ("mammogram", "density", without_density),
        ("sentiment", "tokens", short_reviews),
        ("sentiment", "unknown_tokens", in_another_language),
        ("fashion", "latent_length", latents_of_another_kind),
    ],
)
def test_other_requests_have_drifted(
    models: ModelRegistry, name: str, feature: str, other: Callable[[], Tensors]
) -> None:
    assert ask(models, name, other())[feature] > 0.25


def test_a_version_that_no_longer_serves_is_neither_expected_nor_counted(models: ModelRegistry) -> None:
    assert ask(models, "digits", pictures())
    served = models.find("digits", None)
    models.unload("digits", ["1", "2"])
    before = told()
    for _ in range(20):  # requests that were under way
        served.drift.observe(pictures(), {"probabilities": np.zeros((ROWS, 10), np.float32)})
    assert rows(before, "digits", "2") == rows(told(), "digits", "2")
    assert by_bin(before, "deepserve_drift_expected_share", "digits", "2") == {}
    assert ask(models, "digits", inverted())["ink"] > 0.25


def test_the_metrics_have_the_shares_of_the_card_and_every_bin_from_the_start(tmp_path: Path) -> None:
    version = shutil.copytree(MODELS / "mammogram" / "1", tmp_path / "mammogram" / "8")
    card = Card.read(version).model_copy(update={"version": "8"})
    card.write(version)
    models = ModelRegistry(Settings(models_dir=tmp_path), bind)
    assert not models.load("mammogram", ["8"], None)
    text = told()
    expected = by_bin(text, "deepserve_drift_expected_share", "mammogram", "8")
    assert {feature: tuple(bins.values()) for feature, bins in expected.items()} == {
        feature: pytest.approx(usual.shares) for feature, usual in card.distributions.items()
    }
    found = rows(text, "mammogram", "8")
    assert {feature: set(bins) for feature, bins in found.items()} == {
        feature: set(bins) for feature, bins in expected.items()
    }
    assert {count for bins in found.values() for count in bins.values()} == {0}, "else Prometheus misses the first rows"


def test_a_card_without_distributions_is_served_and_nothing_counted(tmp_path: Path) -> None:
    version = shutil.copytree(MODELS / "mammogram" / "1", tmp_path / "mammogram" / "7")
    Card.read(version).model_copy(update={"version": "7", "distributions": {}}).write(version)
    models = ModelRegistry(Settings(models_dir=tmp_path), bind)
    assert not models.load("mammogram", ["7"], None)
    models.find("mammogram", None).drift.observe(masses(), {"probabilities": np.zeros((961, 2), np.float32)})
    assert rows(told(), "mammogram", "7") == {}


@given(
    edges=st.lists(st.floats(-1e6, 1e6), unique=True, max_size=MAX_BINS - 2).map(sorted),
    values=st.lists(st.floats(), max_size=50),
)
def test_a_row_is_in_the_first_bin_whose_edge_is_not_below_it(edges: list[float], values: list[float]) -> None:
    expected = [0] * (len(edges) + 2)
    for value in values:
        above = [number for number, edge in enumerate(edges) if value <= edge]
        expected[-1 if math.isnan(value) else above[0] if above else len(edges)] += 1
    assert count_by_bin(np.array(values), edges).tolist() == expected


def test_integers_are_sorted_into_bins_too() -> None:
    assert count_by_bin(np.array([0, 9, 9, 4], np.int64), (0.5, 4.0)).tolist() == [1, 1, 2, 0]


def test_the_index_of_a_case_that_is_worked_out_by_hand() -> None:
    # (0.2 - 0.5) ln(0.2 / 0.5) + (0.3 - 0.3) ln 1 + (0.5 - 0.2) ln(0.5 / 0.2) = 2 * 0.3 * 0.916291
    shares, counts = {"1": 0.5, "2": 0.3, "+Inf": 0.2}, {"1": 20, "2": 30, "+Inf": 50}
    assert stability_index(shares, counts) == pytest.approx(0.549774, abs=1e-6)


@pytest.fixture
def _same_each_time() -> None:
    random.seed(0)


def chosen(per_second: float, requests: int) -> list[int]:
    """Return the numbers of the sampled requests among `requests` at a constant rate."""
    now = 0.0
    sample = Sample(lambda: now)
    found = [0]
    while found[-1] < requests:
        gap = sample.gap()
        now += gap / per_second
        found.append(found[-1] + gap)
    return found


def test_every_request_is_sampled_at_a_low_rate() -> None:
    assert chosen(per_second=SAMPLED_PER_SECOND, requests=1000) == list(range(1001))


@pytest.mark.usefixtures("_same_each_time")
def test_at_a_high_rate_about_the_same_number_a_second_is_sampled() -> None:
    for per_second in (100, 3000, 100_000):
        found = chosen(per_second, requests=60 * per_second)
        assert len(found) - MEASURED == pytest.approx(60 * SAMPLED_PER_SECOND, rel=0.15)


@pytest.mark.usefixtures("_same_each_time")
def test_every_request_has_the_same_chance() -> None:
    places = Counter(place % 4 for place in chosen(per_second=1000, requests=1_000_000))
    assert min(places.values()) > 0.9 * max(places.values())


def test_after_the_rate_has_fallen_every_request_is_sampled_again() -> None:
    now = 0.0
    sample = Sample(lambda: now)
    for _ in range(500):
        now += sample.gap() / 1000
    passed = 0
    while (gap := sample.gap()) > 1:
        now += gap
        passed += gap
    assert passed < 1000
