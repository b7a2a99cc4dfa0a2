"""Concurrent requests share runs, and neither their responses nor their durations depend on each other."""

import asyncio
import base64
import io
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from service.tasks.mammogram import MEASUREMENTS
from tests.live.conftest import serving
from tests.paths import MODELS
from tests.waiting import wait_until
from training.data.images import MNIST, load_images
from training.data.imdb import load_reviews
from training.data.mammographic import load_masses

JSON = {"Accept": "application/json"}
TOLERANCE = 1e-4
"""Of a probability: sums in another order are rounded differently."""


def runs(client: httpx.Client, model: str, version: str) -> tuple[float, float]:
    """Return the number of runs of a model and of their rows."""
    text = client.get("/metrics").text
    found = [
        re.search(rf'deepserve_run_rows_{what}{{model="{model}",version="{version}"}} (\S+)', text)
        for what in ("count", "sum")
    ]
    return tuple(float(match[1]) if match else 0.0 for match in found)  # type: ignore[return-value]


def at_once(server: str, path: str, bodies: Sequence[object]) -> list[dict[str, Any]]:
    """Send all requests at the same time; return the response bodies."""

    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=server, limits=limits, timeout=60, headers=JSON) as client:
            return await asyncio.gather(*(client.post(path, json=body) for body in bodies))

    responses = asyncio.run(ask())
    assert [response.status_code for response in responses] == [200] * len(bodies)
    return [response.json() for response in responses]


@dataclass(frozen=True)
class Task:
    """64 real items of a task, the request for some of them, and the numbers of a prediction that are compared."""

    path: str
    items: Sequence[object]
    request: Callable[[Sequence[object]], object]
    measure: Callable[[dict[str, Any]], list[float]]


def digits(version: str) -> Task:
    pictures = load_images(MNIST)[1].pictures[:64]
    return Task(
        f"/v1/digits?version={version}",
        [png(picture) for picture in pictures],
        lambda items: {"images": items},
        lambda prediction: prediction["probabilities"],
    )


def png(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@cache
def reviews() -> list[str]:
    return load_reviews()[1].texts[:3200]


def sentiment() -> Task:
    return Task(
        "/v1/sentiment",
        reviews()[::50],
        lambda items: {"reviews": items},
        lambda prediction: [prediction["probability_positive"]],
    )


def mammogram() -> Task:
    rows = [
        {name: int(value) for name, value in zip(MEASUREMENTS, row, strict=True) if not np.isnan(value)}
        for row in load_masses().masses
    ]
    return Task(
        "/v1/mammogram",
        [row for row in rows if row][:64],
        lambda items: {"masses": items},
        lambda prediction: [prediction["probability_malignant"]],
    )


def fashion() -> Task:
    def tones(prediction: dict[str, Any]) -> list[float]:
        picture = Image.open(io.BytesIO(base64.b64decode(prediction["image"])))
        return [tone * TOLERANCE for tone in np.asarray(picture, float).ravel()]  # a tone may be rounded the other way

    orders = [{"seed": seed, "count": 1} for seed in range(64)]
    return Task("/v1/fashion", orders, lambda items: items[0], tones)


TASKS = {
    "digits 1": lambda: digits("1"),
    "digits 2": lambda: digits("2"),
    "sentiment": sentiment,
    "mammogram": mammogram,
    "fashion": fashion,
}


@pytest.fixture(scope="module", params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    made: Task = TASKS[request.param]()
    assert len(made.items) == 64
    return made


def test_a_prediction_does_not_depend_on_concurrent_requests(server: str, task: Task) -> None:
    requests = [task.request([item]) for item in task.items]
    with httpx.Client(base_url=server, timeout=30, headers=JSON) as client:
        alone = [client.post(task.path, json=request).json() for request in requests]
    together = at_once(server, task.path, requests)
    for one, other in zip(alone, together, strict=True):
        expected = task.measure(one["predictions"][0])
        assert task.measure(other["predictions"][0]) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("task", [name for name in TASKS if name != "fashion"], indirect=True)
def test_a_prediction_does_not_depend_on_the_other_items_of_the_request(client: httpx.Client, task: Task) -> None:
    together = client.post(task.path, json=task.request(task.items)).json()["predictions"]
    for item, prediction in zip(task.items, together, strict=True):
        alone = client.post(task.path, json=task.request([item])).json()["predictions"][0]
        assert task.measure(prediction) == pytest.approx(task.measure(alone), abs=TOLERANCE)


def test_concurrent_requests_share_runs(server: str, client: httpx.Client, task: Task) -> None:
    model, _, version = task.path.removeprefix("/v1/").partition("?version=")
    version = version or max(path.name for path in (MODELS / model).iterdir())
    before = runs(client, model, version)
    at_once(server, task.path, [task.request([item]) for item in task.items] * 3)
    after = runs(client, model, version)
    assert after[1] - before[1] == 3 * 64
    assert after[0] - before[0] < 3 * 64


@dataclass
class Load:
    """Long reviews that clients send one after the other until the load ends."""

    statuses: list[int]
    seconds: list[float]
    """Duration of each successful request."""


@contextmanager
def sentiment_load(url: str) -> Iterator[Load]:
    """Keep the queue of the sentiment model filled, however fast the machine is: four clients, 64 rows a request."""
    load, over = Load([], []), threading.Event()
    body = {"reviews": sorted(reviews(), key=len)[-64:]}

    def send() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not over.is_set():
                started = time.perf_counter()
                load.statuses.append(client.post("/v1/sentiment", json=body).status_code)
                if load.statuses[-1] == 200:
                    load.seconds.append(time.perf_counter() - started)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(load.seconds) >= 4, seconds=120)
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_small_model_does_not_wait_for_a_large_one(server: str, client: httpx.Client) -> None:
    with sentiment_load(server) as load:
        seconds = []
        for age in range(20, 40):
            started = time.perf_counter()
            assert client.post("/v1/mammogram", json={"masses": [{"age": age}]}).status_code == 200
            seconds.append(time.perf_counter() - started)
    assert set(load.statuses) == {200}
    assert median(seconds) < median(load.seconds) / 4  # of four requests in a queue, one run computes one


def test_a_request_whose_deadline_passes_in_the_queue_is_not_computed(server: str, client: httpx.Client) -> None:
    before = runs(client, "sentiment", "2")
    with sentiment_load(server) as load:
        # Requests are computed in order, so a new one waits for those of the other clients.
        timeout = min(load.seconds) / 4
        late = client.post("/v1/sentiment", json={"reviews": ["fine"]}, headers={"X-Request-Timeout": f"{timeout:.4f}"})
    assert late.status_code == 504
    assert set(load.statuses) == {200}
    wait_until(lambda: runs(client, "sentiment", "2")[1] - before[1] >= 64 * len(load.statuses))
    assert runs(client, "sentiment", "2")[1] - before[1] == 64 * len(load.statuses)


def test_a_full_queue_rejects_requests_before_their_bodies_are_read(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "log", max_queue_rows="16") as url,
        httpx.Client(base_url=url, timeout=30) as client,
        sentiment_load(url) as load,
    ):
        for path in ("/v1/sentiment", "/v2/models/sentiment/infer"):
            wait_until(partial(is_rejected_unread, url, path))
        assert client.post("/v1/mammogram", json={"masses": [{"age": 50}]}).status_code == 200
    assert set(load.statuses) <= {200, 503}


def is_rejected_unread(url: str, path: str) -> bool:
    """Return whether a request gets a 503 although its body is never sent."""
    address = urlsplit(url)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=1) as connection:
        connection.sendall(head.encode())
        with suppress(TimeoutError):  # the queue had space, and the server waits for the body
            response = connection.recv(4096).decode()
            assert response.startswith("HTTP/1.1 503 ")
            assert re.search(r"retry-after: [1-9]", response)
            return True
    return False
