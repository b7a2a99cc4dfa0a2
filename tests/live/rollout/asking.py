"""Requests without a pause and orders for a server, and what its workers make of them."""

import json
import shutil
import socket
import threading
import time
from collections import Counter
from functools import cache
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from service.registry.card import Card
from tests.paths import DIGIT, MODELS

ADMIN = {"Authorization": "Bearer admin"}
MLP, CNN = (MODELS / "digits" / version for version in ("1", "2"))
WORKERS = 2


@cache
def golden_case(version: Path) -> tuple[np.ndarray, np.ndarray]:
    """The first golden picture of a version of digits, and what its graph in integers says of it."""
    with np.load(version / "golden.npz") as cases:
        return cases["in:pictures"][:1], cases["int8:probabilities"][0]


def put(source: Path, models: Path, name: str, number: str) -> None:
    """Puts a version into a folder of models under another name."""
    target = models / name / number
    shutil.copytree(source, target)
    Card.read(target).model_copy(update={"name": name, "version": number}).write(target)


def retrain(version: Path, seed: int) -> None:
    """Replaces the content of a version by other content that is as good."""
    Card.read(version).model_copy(update={"title": f"Retrained with seed {seed}"}).write(version)


class Traffic:
    """Requests for digits without a pause, each answer held against what the version that it names has to say."""

    def __init__(self, url: str, versions: dict[str, Path]) -> None:
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []
        self._url = url
        picture, _ = golden_case(CNN)
        tensor = {"name": "pictures", "shape": [1, 28, 28], "datatype": "UINT8", "data": picture.ravel().tolist()}
        self._tensors = {"inputs": [tensor]}
        self._photograph = DIGIT.read_bytes()
        self._expected = versions
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, version: str, answers: int = 50) -> None:
        """Until so many more requests have been answered by a version."""
        enough = self.answers[version] + answers
        end = time.monotonic() + 30
        while self.answers[version] < enough:
            assert time.monotonic() < end, (self.answers, self.faults[:3])
            time.sleep(0.02)

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self._over.is_set():
                for ask in (self._ask_in_tensors, self._ask_with_a_photograph):
                    try:
                        version, fault = ask(client)
                    except httpx.TransportError as error:
                        version, fault = "none", repr(error)
                    self.answers[version] += 1
                    if fault:
                        self.faults.append(fault)

    def _ask_in_tensors(self, client: httpx.Client) -> tuple[str, str]:
        response = client.post("/v2/models/digits/infer", json=self._tensors)
        if response.status_code != 200:
            return "none", response.text
        answer = response.json()
        version, [output] = answer["model_version"], answer["outputs"]
        expected = golden_case(self._expected[version])[1]
        off = np.abs(np.array(output["data"]) - expected).max()
        return version, f"version {version} is off by {off}" if off > 1e-4 else ""

    def _ask_with_a_photograph(self, client: httpx.Client) -> tuple[str, str]:
        response = client.post("/v1/digits", content=self._photograph, headers={"Content-Type": "image/jpeg"})
        if response.status_code != 200:
            return "none", response.text
        answer = response.json()
        same = answer["version"] == response.headers["X-Model-Version"]
        return answer["version"], "" if same and answer["predictions"][0]["digit"] == 7 else response.text


def order(url: str, what: str, name: str, **parameters: Any) -> httpx.Response:
    """Has a model loaded or unloaded."""
    body = {"parameters": parameters} if parameters else {}
    return httpx.post(f"{url}/v2/repository/models/{name}/{what}", json=body, headers=ADMIN, timeout=60)


def versions(*numbers: int) -> str:
    """The configuration that chooses these versions."""
    return json.dumps({"version_policy": {"specific": {"versions": numbers}}})


def index(url: str, name: str) -> list[dict[str, str]]:
    return [each for each in httpx.post(f"{url}/v2/repository/index").json() if each["name"] == name]


def states(url: str, name: str) -> dict[str, str]:
    """Version to state."""
    return {each["version"]: each["state"] for each in index(url, name)}


def of_every_worker(url: str, path: str, body: dict[str, Any] | None = None) -> list[httpx.Response]:
    """The answers over so many new connections that every worker gives some."""
    with httpx.Client(base_url=url, headers={"Connection": "close"}) as client:
        return [client.request("POST" if body else "GET", path, json=body) for _ in range(12 * WORKERS)]


def statuses(url: str, path: str, body: dict[str, Any] | None = None) -> set[int]:
    """How requests to every worker end."""
    return {answer.status_code for answer in of_every_worker(url, path, body)}


def answering(url: str) -> set[str]:
    """The versions of digits that answer those who ask for none."""
    body = {"inputs": [{"name": "pictures", "shape": [1, 28, 28], "datatype": "UINT8", "data": [0] * 784}]}
    return {answer.json()["model_version"] for answer in of_every_worker(url, "/v2/models/digits/infer", body)}


def mammogram(url: str) -> set[int]:
    """How requests for mammogram end."""
    return statuses(url, "/v1/mammogram", {"masses": [{"age": 50}]})


class SlowRequest:
    """A request that the server has let in, and of whose body it has the first bytes."""

    def __init__(self, url: str, target: str, body: bytes) -> None:
        address = httpx.URL(url)
        head = f"POST {target} HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\nConnection: close\r\nExpect: 100-continue\r\n\r\n"
        self._connection = socket.create_connection((address.host, address.port), timeout=30)
        self._connection.sendall(head.encode())
        assert self._connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        self._connection.sendall(body[:5])
        self._rest = body[5:]

    def finish(self) -> HTTPResponse:
        """Sends the rest; the head of the answer."""
        with self._connection:
            self._connection.sendall(self._rest)
            response = HTTPResponse(self._connection)
            response.begin()
            return response


def workers(url: str) -> list[psutil.Process]:
    """The processes that listen at the address, without the one that started them."""
    port = httpx.URL(url).port
    [supervisor] = [each for each in psutil.Process().children() if each.environ().get("DEEPSERVE_PORT") == str(port)]
    return [each for each in supervisor.children() if any("worker" in part for part in each.cmdline())]
