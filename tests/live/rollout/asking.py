"""Continuous requests and repository commands to a server, and the responses of its workers."""

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
    """Return the first golden picture of a version of digits, and the output of its int8 graph."""
    with np.load(version / "golden.npz") as cases:
        return cases["in:pictures"][:1], cases["int8:probabilities"][0]


def put(source: Path, models: Path, name: str, number: str) -> None:
    """Copy a version into a models directory under another name."""
    target = models / name / number
    shutil.copytree(source, target)
    Card.read(target).model_copy(update={"name": name, "version": number}).write(target)


def retrain(version: Path, seed: int) -> None:
    """Replace the files of a version with those of an equally valid one."""
    Card.read(version).model_copy(update={"title": f"Retrained with seed {seed}"}).write(version)


class Traffic:
    """Continuous requests for digits. Each response is compared with the outputs of the version it names."""

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
        """Wait until a version has answered this number of further requests."""
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
    """Load or unload a model."""
    body = {"parameters": parameters} if parameters else {}
    return httpx.post(f"{url}/v2/repository/models/{name}/{what}", json=body, headers=ADMIN, timeout=60)


def versions(*numbers: int) -> str:
    """Return the configuration that selects these versions."""
    return json.dumps({"version_policy": {"specific": {"versions": numbers}}})


def index(url: str, name: str) -> list[dict[str, str]]:
    return [each for each in httpx.post(f"{url}/v2/repository/index").json() if each["name"] == name]


def states(url: str, name: str) -> dict[str, str]:
    """Return the state of each version."""
    return {each["version"]: each["state"] for each in index(url, name)}


def of_every_worker(url: str, path: str, body: dict[str, Any] | None = None) -> list[httpx.Response]:
    """Return responses on enough new connections to reach every worker."""
    with httpx.Client(base_url=url, headers={"Connection": "close"}) as client:
        return [client.request("POST" if body else "GET", path, json=body) for _ in range(12 * WORKERS)]


def statuses(url: str, path: str, body: dict[str, Any] | None = None) -> set[int]:
    """Return the statuses of requests to every worker."""
    return {answer.status_code for answer in of_every_worker(url, path, body)}


def answering(url: str) -> set[str]:
    """Return the versions of digits that answer requests without a version."""
    body = {"inputs": [{"name": "pictures", "shape": [1, 28, 28], "datatype": "UINT8", "data": [0] * 784}]}
    return {answer.json()["model_version"] for answer in of_every_worker(url, "/v2/models/digits/infer", body)}


def mammogram(url: str) -> set[int]:
    """Return the statuses of requests for mammogram."""
    return statuses(url, "/v1/mammogram", {"masses": [{"age": 50}]})


class SlowRequest:
    """A request that the server has accepted, with the first bytes of its body."""

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
        """Send the rest; return the head of the response."""
        with self._connection:
            self._connection.sendall(self._rest)
            response = HTTPResponse(self._connection)
            response.begin()
            return response


def workers(url: str) -> list[psutil.Process]:
    """Return the worker processes of the server."""
    port = httpx.URL(url).port
    [supervisor] = [each for each in psutil.Process().children() if each.environ().get("DEEPSERVE_PORT") == str(port)]
    return [each for each in supervisor.children() if any("worker" in part for part in each.cmdline())]
