"""The metrics of a server show how far its requests are from the data of its models, at every endpoint."""

import shutil
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from service.observability.exposition import FLUSH_SECONDS
from tests.drift_index import indices
from tests.live.conftest import serving
from tests.paths import MODELS
from training.data.images import MNIST, load_images
from training.data.mammographic import load_masses

MANY = 64
"""The number of rows of a request."""
ROWS = 4000


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a new server with two workers. Each request has its own connection, so that both workers get some."""
    folder = tmp_path_factory.mktemp("drift")
    for version in ("digits/2", "mammogram/1"):
        shutil.copytree(MODELS / version, folder / "models" / version)
    limits = httpx.Limits(max_keepalive_connections=0)
    with (
        serving(folder / "log", models_dir=str(folder / "models"), workers="2", threads="1") as url,
        httpx.Client(base_url=url, timeout=30, limits=limits) as made,
    ):
        yield made


def metrics(client: httpx.Client) -> str:
    """Wait until both workers have flushed, and return the text of `/metrics`."""
    time.sleep(2 * FLUSH_SECONDS)
    return client.get("/metrics").text


def wait_until_far(client: httpx.Client, model: str, version: str, feature: str, ask: Callable[[], None]) -> None:
    """Send requests until the index of a feature, of the rows from now on, is above 0.25."""
    before = metrics(client)
    end = time.monotonic() + 30
    while indices(before, text := metrics(client), model, version).get(feature, 0) <= 0.25:
        assert time.monotonic() < end, indices(before, text, model, version)
        for _ in range(10):
            ask()


def infer(client: httpx.Client, pictures: npt.NDArray[np.uint8]) -> None:
    tensor = {"name": "pictures", "datatype": "UINT8", "shape": pictures.shape, "data": pictures.ravel().tolist()}
    assert client.post("/v2/models/digits/versions/2/infer", json={"inputs": [tensor]}).status_code == 200


def test_tensors_like_the_training_data_have_a_low_index_and_others_a_high_one(client: httpx.Client) -> None:
    pictures = load_images(MNIST)[1].pictures
    before = metrics(client)
    for first in range(0, ROWS, MANY):
        infer(client, pictures[first : first + MANY])
    found = indices(before, metrics(client), "digits", "2")
    assert set(found) == {"ink", "off_centre", "prediction"}
    assert max(found.values()) < 0.1, found
    wait_until_far(client, "digits", "2", "ink", lambda: infer(client, 255 - pictures[:MANY]))


def predict(client: httpx.Client, masses: list[dict[str, float]]) -> None:
    assert client.post("/v1/mammogram", json={"masses": masses}).status_code == 200


def test_requests_for_a_task_are_counted_too(client: httpx.Client) -> None:
    names = ("age", "shape", "margin", "density")
    rows = load_masses().masses.tolist()
    masses = [{name: value for name, value in zip(names, row, strict=True) if value == value} for row in rows]
    every = cycle(masses)
    before = metrics(client)
    for _ in range(0, ROWS, MANY):
        predict(client, list(islice(every, MANY)))
    found = indices(before, metrics(client), "mammogram", "1")
    assert set(found) == {*names, "prediction"}
    assert max(found.values()) < 0.1, found
    old = [mass for mass in masses if mass.get("age", 0) >= 65]
    wait_until_far(client, "mammogram", "1", "age", lambda: predict(client, old[:MANY]))
