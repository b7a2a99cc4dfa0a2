"""Drift metrics show whether requests resemble the training data, for task and V2 requests."""

import shutil
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.live.conftest import serving
from tests.paths import MODELS
from training import datasets
from training.datasets import MNIST

MANY = 64
"""Number of items in a request."""
ROWS = 4000


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Return a client of a new server with two workers. Each request has a new connection, so that both get some."""
    folder = tmp_path_factory.mktemp("drift")
    for version in ("digits/2", "mammogram/1"):
        shutil.copytree(MODELS / version, folder / "models" / version)
    limits = httpx.Limits(max_keepalive_connections=0)
    with (
        serving(folder / "log", models_dir=str(folder / "models"), workers="2", threads="1") as url,
        httpx.Client(base_url=url, timeout=30, limits=limits) as made,
    ):
        yield made


def indices(client: httpx.Client, model: str, version: str) -> dict[str, float]:
    """Return the drift index of each feature of a version."""
    return {
        sample.labels["feature"]: sample.value
        for family in parse(client.get("/metrics").text)
        for sample in family.samples
        if family.name == "deepserve_drift_index"
        and (sample.labels["model"], sample.labels["version"]) == (model, version)
    }


def wait_until_far(client: httpx.Client, model: str, version: str, feature: str, ask: Callable[[], None]) -> None:
    """Send requests until the drift index of a feature is above 0.25."""
    end = time.monotonic() + 30
    while indices(client, model, version).get(feature, 0) <= 0.25:
        assert time.monotonic() < end, indices(client, model, version)
        ask()


def infer(client: httpx.Client, pictures: npt.NDArray[np.uint8]) -> None:
    tensor = {"name": "pictures", "datatype": "UINT8", "shape": pictures.shape, "data": pictures.ravel().tolist()}
    assert client.post("/v2/models/digits/versions/2/infer", json={"inputs": [tensor]}).status_code == 200


def test_tensors_like_the_training_data_have_low_drift_and_others_high_drift(client: httpx.Client) -> None:
    pictures = datasets.pictures(MNIST)[1].pictures
    for first in range(0, ROWS, MANY):
        infer(client, pictures[first : first + MANY])
    found = indices(client, "digits", "2")
    assert set(found) == {"ink", "off_centre", "prediction"}
    assert max(found.values()) < 0.1, found
    wait_until_far(client, "digits", "2", "ink", lambda: infer(client, 255 - pictures[:MANY]))


def predict(client: httpx.Client, masses: list[dict[str, float]]) -> None:
    assert client.post("/v1/mammogram", json={"masses": masses}).status_code == 200


def test_task_requests_are_monitored_for_drift_too(client: httpx.Client) -> None:
    names = ("age", "shape", "margin", "density")
    rows = datasets.masses().masses.tolist()
    masses = [{name: value for name, value in zip(names, row, strict=True) if value == value} for row in rows]
    every = cycle(masses)
    for _ in range(0, ROWS, MANY):
        predict(client, list(islice(every, MANY)))
    found = indices(client, "mammogram", "1")
    assert set(found) == {*names, "prediction"}
    assert max(found.values()) < 0.1, found
    old = [mass for mass in masses if mass.get("age", 0) >= 65]
    wait_until_far(client, "mammogram", "1", "age", lambda: predict(client, old[:MANY]))
