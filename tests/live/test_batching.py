"""Many clients at once: their requests share runs, and nobody can tell from an answer, or its time, who else asked."""

import asyncio
import base64
import io
import re
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from service.predictors.mammogram import MEASUREMENTS
from tests.live.conftest import serving
from tests.places import MODELS
from training.data.images import MNIST, load_images
from training.data.imdb import load_reviews
from training.data.mammographic import load_masses

JSON = {"Accept": "application/json"}
TOLERANCE = 1e-4
"""Of a probability: a sum of the same numbers in another order."""


def runs(client: httpx.Client, model: str, version: str) -> tuple[float, float]:
    """How many runs of a model there were, and how many rows they had."""
    text = client.get("/metrics").text
    found = [
        re.search(rf'deepserve_run_rows_{what}{{model="{model}",version="{version}"}} (\S+)', text)
        for what in ("count", "sum")
    ]
    return tuple(float(match[1]) if match else 0.0 for match in found)  # type: ignore[return-value]


def at_once(server: str, path: str, bodies: Sequence[object]) -> list[dict[str, Any]]:
    """The answers to all these requests, sent at the same time."""

    async def ask() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(base_url=server, limits=limits, timeout=60, headers=JSON) as client:
            return await asyncio.gather(*(client.post(path, json=body) for body in bodies))

    responses = asyncio.run(ask())
    assert [response.status_code for response in responses] == [200] * len(bodies)
    return [response.json() for response in responses]


@dataclass(frozen=True)
class Task:
    """64 real items of a task, the request for some of them, and what is measured of an answer to one."""

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


def test_an_answer_does_not_depend_on_who_else_asks(server: str, task: Task) -> None:
    requests = [task.request([item]) for item in task.items]
    with httpx.Client(base_url=server, timeout=30, headers=JSON) as client:
        alone = [client.post(task.path, json=request).json() for request in requests]
    together = at_once(server, task.path, requests)
    for one, other in zip(alone, together, strict=True):
        expected = task.measure(one["predictions"][0])
        assert task.measure(other["predictions"][0]) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("task", [name for name in TASKS if name != "fashion"], indirect=True)
def test_an_answer_does_not_depend_on_the_other_items_of_its_request(client: httpx.Client, task: Task) -> None:
    together = client.post(task.path, json=task.request(task.items)).json()["predictions"]
    for item, prediction in zip(task.items, together, strict=True):
        alone = client.post(task.path, json=task.request([item])).json()["predictions"][0]
        assert task.measure(prediction) == pytest.approx(task.measure(alone), abs=TOLERANCE)


def test_requests_at_once_take_fewer_runs(server: str, client: httpx.Client, task: Task) -> None:
    model, _, version = task.path.removeprefix("/v1/").partition("?version=")
    version = version or max(path.name for path in (MODELS / model).iterdir())
    before = runs(client, model, version)
    at_once(server, task.path, [task.request([item]) for item in task.items] * 3)
    after = runs(client, model, version)
    assert after[1] - before[1] == 3 * 64
    assert after[0] - before[0] < 3 * 64


def test_a_small_model_does_not_wait_for_a_large_one(server: str, client: httpx.Client) -> None:
    longest = sorted(reviews(), key=len)[-256:]
    before = runs(client, "sentiment", "2")
    large = threading.Thread(
        target=at_once, args=(server, "/v1/sentiment", [{"reviews": longest[at::4]} for at in range(4)])
    )
    large.start()
    while runs(client, "sentiment", "2") == before:
        assert large.is_alive()
    for age in range(20, 40):
        assert client.post("/v1/mammogram", json={"masses": [{"age": age}]}).status_code == 200
    waited = not large.is_alive()
    large.join()
    assert not waited


def test_a_request_whose_deadline_passes_in_the_queue_is_not_computed(server: str, client: httpx.Client) -> None:
    longest = sorted(reviews(), key=len)[-64:]
    before = runs(client, "sentiment", "2")
    large = threading.Thread(target=at_once, args=(server, "/v1/sentiment", [{"reviews": longest}] * 3))
    large.start()
    while runs(client, "sentiment", "2") == before:
        assert large.is_alive()
    late = client.post("/v1/sentiment", json={"reviews": longest[:1]}, headers={"X-Request-Timeout": "0.03"})
    assert late.status_code == 504
    assert large.is_alive()  # those before it still wait
    large.join()
    assert runs(client, "sentiment", "2")[1] - before[1] == 3 * 64


def test_a_full_queue_turns_requests_away_before_they_are_read(tmp_path: Path) -> None:
    longest = sorted(reviews(), key=len)[-64:]
    with serving(tmp_path / "log", max_queue_rows="16") as url, httpx.Client(base_url=url, timeout=30) as client:
        large = threading.Thread(target=at_once, args=(url, "/v1/sentiment", [{"reviews": longest}]))
        large.start()
        while runs(client, "sentiment", "2")[0] == 0:
            assert large.is_alive()
        for path in ("/v1/sentiment", "/v2/models/sentiment/infer"):
            refused = answer_to_a_head_alone(url, path)
            assert refused.startswith("HTTP/1.1 503 ")
            assert re.search(r"retry-after: [1-9]", refused)
        assert client.post("/v1/mammogram", json={"masses": [{"age": 50}]}).status_code == 200
        large.join()
        assert client.post("/v1/sentiment", json={"reviews": longest[:1]}).status_code == 200


def answer_to_a_head_alone(url: str, path: str) -> str:
    """What comes back to a request whose body is announced and never sent."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode())
        return connection.recv(4096).decode()
