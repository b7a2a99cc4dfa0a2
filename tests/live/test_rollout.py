"""Versions come and go while requests flow: none of them fails, and each is answered by the version that it names."""

import fcntl
import json
import shutil
import socket
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import cache, partial
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from service.engine.card import Card
from tests.engine.test_verification import claim_another_dtype, flip_a_bit, golden, recorded, truncate
from tests.live.conftest import ROOT, serving

ADMIN = {"Authorization": "Bearer admin"}
MLP, CNN = (ROOT / "models" / "digits" / version for version in ("1", "2"))
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


class Traffic:
    """Requests for digits without a pause, each answer held against what the version that it names has to say."""

    def __init__(self, url: str, versions: dict[str, Path]) -> None:
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []
        self._url = url
        picture, _ = golden_case(CNN)
        tensor = {"name": "pictures", "shape": [1, 28, 28], "datatype": "UINT8", "data": picture.ravel().tolist()}
        self._tensors = {"inputs": [tensor]}
        self._photograph = (ROOT / "tests" / "examples" / "digit.jpg").read_bytes()
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


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address and the models of a server of two workers that takes orders."""
    folder = tmp_path_factory.mktemp("rollouts")
    for name in ("digits", "mammogram"):
        shutil.copytree(ROOT / "models" / name, folder / "models" / name)
    with serving(
        folder / "log", models_dir=str(folder / "models"), workers=str(WORKERS), threads="1", admin_keys="admin"
    ) as url:
        yield url, folder / "models"


@pytest.fixture
def url(rollouts: tuple[str, Path]) -> Iterator[str]:
    """Its address; the models are put back afterwards as they were."""
    address, models = rollouts
    yield address
    shutil.rmtree(models / "digits" / "3", ignore_errors=True)
    for name in ("digits", "mammogram"):
        assert order(address, "load", name).status_code == 200
    assert states(address, "digits") == {"1": "READY", "2": "READY"}


@pytest.fixture
def models(rollouts: tuple[str, Path]) -> Path:
    """The folder that it serves from."""
    return rollouts[1]


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


def test_a_new_version_is_rolled_out_and_taken_back(url: str, models: Path) -> None:
    with Traffic(url, {"1": MLP, "2": CNN, "3": MLP}) as traffic:
        traffic.wait_for("2")
        put(MLP, models, "digits", "3")
        assert answering(url) == {"2"}  # nobody has asked for it
        assert order(url, "load", "digits").status_code == 200
        assert answering(url) == {"3"}
        traffic.wait_for("3")
        assert order(url, "load", "digits", config=versions(1, 2)).status_code == 200
        assert answering(url) == {"2"}
        assert states(url, "digits") == {"1": "READY", "2": "READY", "3": "UNAVAILABLE"}
        traffic.wait_for("2")
        shutil.rmtree(models / "digits" / "3")
        assert order(url, "load", "digits").status_code == 200
        assert states(url, "digits") == {"1": "READY", "2": "READY"}
    assert traffic.faults == []
    assert set(traffic.answers) == {"2", "3"}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate("model.int8.onnx"), "model.int8.onnx"),
        (flip_a_bit, "sha256"),
        (golden(recorded("int8:probabilities", lambda values: values[::-1])), "golden"),
        (claim_another_dtype, "inputs"),
    ],
    ids=["truncated", "wrong checksum", "wrong golden cases", "wrong dtype"],
)
def test_a_version_that_fails_takes_no_good_one_down(
    url: str, models: Path, damage: Callable[[Path], None], reason: str
) -> None:
    put(CNN, models, "digits", "3")
    damage(models / "digits" / "3")
    with Traffic(url, {"2": CNN}) as traffic:
        traffic.wait_for("2", 20)
        refused = order(url, "load", "digits")
        assert refused.status_code == 400
        assert reason in refused.json()["error"]
        assert str(models) not in refused.text
        assert answering(url) == {"2"}
        assert order(url, "load", "digits", config=versions(3)).status_code == 400
        assert answering(url) == {"2"}
        traffic.wait_for("2", 20)
    assert traffic.faults == []
    [broken] = [each for each in index(url, "digits") if each["version"] == "3"]
    assert broken["state"] == "UNAVAILABLE"
    assert reason in broken["reason"]
    assert httpx.get(f"{url}/readyz").status_code == 200
    ready = 'deepserve_model_ready{model="digits",version="3"}'
    assert f"{ready} 0" in httpx.get(f"{url}/metrics").text
    shutil.rmtree(models / "digits" / "3")
    assert order(url, "load", "digits").status_code == 200
    assert ready not in httpx.get(f"{url}/metrics").text


def test_files_that_get_worse_do_not_touch_what_serves(url: str, models: Path) -> None:
    card = (models / "digits" / "2" / "card.json").read_bytes()
    with Traffic(url, {"2": CNN}) as traffic:
        (models / "digits" / "2" / "card.json").write_bytes(b"{}")
        assert order(url, "load", "digits").status_code == 400
        traffic.wait_for("2", 20)
        (models / "digits" / "2" / "card.json").write_bytes(card)
        assert order(url, "load", "digits").status_code == 200
        traffic.wait_for("2", 20)
    assert traffic.faults == []


def test_a_model_with_one_version_is_unloaded_and_loaded(url: str) -> None:
    with Traffic(url, {"2": CNN}) as traffic:
        assert mammogram(url) == {200}
        assert order(url, "unload", "mammogram").status_code == 200
        assert mammogram(url) == {503}
        assert states(url, "mammogram") == {"1": "UNAVAILABLE"}
        assert httpx.get(f"{url}/readyz").status_code == 200  # it is not missed
        assert order(url, "load", "mammogram").status_code == 200
        assert mammogram(url) == {200}
        traffic.wait_for("2", 20)
    assert traffic.faults == []


@pytest.mark.parametrize("target", ["/v1/mammogram", "/v2/models/mammogram/infer"])
def test_a_request_that_still_arrives_when_its_model_is_unloaded_is_answered(url: str, target: str) -> None:
    mass = {"name": "masses", "shape": [1, 4], "datatype": "FP32", "data": [50, 1, 1, 1]}
    body = {"inputs": [mass]} if target.startswith("/v2") else {"masses": [{"age": 50}]}
    requests = [SlowRequest(url, target, json.dumps(body).encode()) for _ in range(2 * WORKERS)]
    assert order(url, "unload", "mammogram").status_code == 200
    assert mammogram(url) == {503}
    assert [request.finish().status for request in requests] == [200] * len(requests)


def test_a_request_that_still_arrives_gets_the_version_that_it_asked_for(url: str) -> None:
    picture = b64encode((ROOT / "tests" / "examples" / "digit.jpg").read_bytes()).decode()
    body = json.dumps({"images": [picture]}).encode()
    requests = {
        number: SlowRequest(url, f"/v1/digits?version={number}" if number else "/v1/digits", body)
        for number in ("1", "2", "")
    }
    assert order(url, "load", "digits", config=versions(2)).status_code == 200
    assert httpx.post(f"{url}/v1/digits?version=1", content=body).status_code == 503
    answers = {number: request.finish() for number, request in requests.items()}
    assert {answer.status for answer in answers.values()} == {200}
    assert {number: answer.headers["X-Model-Version"] for number, answer in answers.items()} == {
        "1": "1",
        "2": "2",
        "": "2",
    }


def test_a_worker_that_holds_the_numbers_of_all_holds_up_no_request_and_no_load(url: str) -> None:
    numbers = Path(workers(url)[0].environ()["_DEEPSERVE_WORKERS"]) / "metrics"
    paths = ("/v2/models/stats", "/v2/models/digits/stats", *["/metrics"] * 14 * WORKERS)
    with ThreadPoolExecutor(len(paths)) as pool:
        with (numbers / "lock").open("ab") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            looks = [pool.submit(partial(httpx.get, f"{url}{path}", timeout=60)) for path in paths]
            assert order(url, "unload", "mammogram").status_code == 200
            assert mammogram(url) == {503}
            assert order(url, "load", "mammogram").status_code == 200
            assert mammogram(url) == {200}
            [first, *_] = wait(looks, 30, FIRST_COMPLETED).done
            assert first.result().status_code == 503
            assert first.result().headers["Retry-After"] == "1"
        assert {look.result().status_code for look in looks} == {200, 503}
    assert {httpx.get(f"{url}{path}").status_code for path in paths[:3]} == {200}


@pytest.mark.parametrize("what", ["load", "unload"])
def test_nobody_forges_a_line_of_the_log_by_the_name_of_a_model(url: str, models: Path, what: str) -> None:
    refused = httpx.post(f"{url}/v2/repository/models/x%0a2026 [INFO] forged%1b[31m/{what}", headers=ADMIN)
    assert refused.status_code == 404
    assert "forged" not in (models.parent / "log").read_text()


def test_a_model_that_cannot_be_loaded_again_is_not_missed(url: str, models: Path) -> None:
    assert order(url, "unload", "mammogram").status_code == 200
    card = (models / "mammogram" / "1" / "card.json").read_bytes()
    (models / "mammogram" / "1" / "card.json").write_bytes(b"{}")
    try:
        assert order(url, "load", "mammogram").status_code == 400
        put(MLP, models, "letters", "1")
        assert order(url, "load", "letters").status_code == 400  # there is no such task
        assert index(url, "letters") == []
        assert httpx.get(f"{url}/readyz").status_code == 200
    finally:
        shutil.rmtree(models / "letters", ignore_errors=True)
        (models / "mammogram" / "1" / "card.json").write_bytes(card)


def test_a_worker_that_comes_back_serves_what_the_others_do(url: str, models: Path) -> None:
    put(MLP, models, "digits", "3")
    assert order(url, "load", "digits", config=versions(1)).status_code == 200
    assert order(url, "unload", "mammogram").status_code == 200
    worker = workers(url)[0]
    worker.kill()
    worker.wait(10)
    until(lambda: len(workers(url)) == WORKERS and httpx.get(f"{url}/readyz").is_success)
    assert answering(url) == {"1"}
    assert mammogram(url) == {503}


def test_a_worker_that_comes_back_with_less_than_the_others_serve_is_not_ready(url: str, models: Path) -> None:
    card = (models / "digits" / "2" / "card.json").read_bytes()
    (models / "digits" / "2" / "card.json").write_bytes(b"{}")
    worker = workers(url)[0]
    worker.kill()
    worker.wait(10)
    paths = ("/readyz", "/v2/health/ready", "/v2/models/digits/ready", "/v2/models/digits/versions/2/ready")
    until(lambda: "version 2 of model 'digits'" in httpx.get(f"{url}/readyz").text.lower())
    assert {path: statuses(url, path) for path in paths} == {path: {503} for path in paths}
    others = ("/v2/models/digits/versions/1/ready", "/v2/models/mammogram/ready", "/livez")
    assert {path: statuses(url, path) for path in others} == {path: {200} for path in others}
    (models / "digits" / "2" / "card.json").write_bytes(card)
    assert order(url, "load", "digits").status_code == 200
    assert {path: statuses(url, path) for path in paths} == {path: {200} for path in paths}
    assert answering(url) == {"2"}


def test_a_worker_that_is_starting_makes_the_changes_that_come_meanwhile(url: str) -> None:
    worker = workers(url)[0]
    worker.kill()
    worker.wait(10)
    until(lambda: len(workers(url)) == WORKERS)
    end = time.monotonic() + 20
    changes = 0
    while not httpx.get(f"{url}/readyz").is_success:
        assert time.monotonic() < end
        changes += 1
        assert order(url, "unload" if changes % 2 else "load", "mammogram").status_code == 200
    assert changes
    assert order(url, "unload", "mammogram").status_code == 200
    assert mammogram(url) == {503}


def test_a_worker_that_is_stopped_holds_up_no_change_and_makes_it_when_it_goes_on(url: str) -> None:
    worker = workers(url)[0]
    worker.suspend()
    try:
        assert order(url, "unload", "mammogram").status_code == 200  # it takes a minute at most
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert mammogram(url) == {503}
    finally:
        worker.resume()
    until(lambda: httpx.get(f"{url}/readyz").is_success)
    until(lambda: mammogram(url) == {503})
    assert order(url, "load", "mammogram").status_code == 200
    assert mammogram(url) == {200}


def test_what_is_replaced_is_given_back(url: str, models: Path) -> None:
    """Ten reloads of a model of 1 MB, 40 MB in memory."""
    with Traffic(url, {"2": CNN}) as traffic:
        sizes = []
        for _ in range(12):
            (models / "digits" / "2" / "card.json").touch()
            assert order(url, "load", "digits").status_code == 200
            traffic.wait_for("2", 20)
            sizes.append(max(worker.memory_info().rss for worker in workers(url)) / 2**20)
    assert traffic.faults == []
    assert max(sizes[-2:]) < max(sizes[:2]) + 20, sizes


def workers(url: str) -> list[psutil.Process]:
    """The processes that listen at the address, without the one that started them."""
    port = httpx.URL(url).port
    [supervisor] = [each for each in psutil.Process().children() if each.environ().get("DEEPSERVE_PORT") == str(port)]
    return [each for each in supervisor.children() if any("worker" in part for part in each.cmdline())]


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_with_a_watch_versions_come_and_go_with_their_folders(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(ROOT / "models" / "digits", models / "digits")
    with (
        serving(tmp_path / "log", models_dir=str(models), watch="0.3", threads="1") as url,
        Traffic(url, {"2": CNN, "3": MLP}) as traffic,
    ):
        traffic.wait_for("2", 20)
        put(MLP, tmp_path / "elsewhere", "digits", "3")
        (models / "digits" / "3").mkdir()
        for file in sorted((tmp_path / "elsewhere" / "digits" / "3").iterdir()):  # as slow copying does
            shutil.copy(file, models / "digits" / "3")
            time.sleep(0.2)
        traffic.wait_for("3", 20)
        shutil.rmtree(models / "digits" / "3")
        traffic.wait_for("2", 20)
    assert traffic.faults == []
