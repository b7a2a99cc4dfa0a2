"""The start of a server: faults are named and stop it, but a broken model does not affect the others."""

import re
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from service.engine.onnx import cuda as gpu
from service.observability.exposition import FLUSH_SECONDS
from service.registry.card import Card
from tests.live.conftest import clean_environment, serving
from tests.paths import DIGIT, MODELS, ROOT


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEEPSERVE_PORT", "eighty"),
        ("DEEPSERVE_PORT", "70000"),
        ("DEEPSERVE_WORKERS", "0"),
        ("DEEPSERVE_WORKERS", "many"),
        ("DEEPSERVE_THREADS", "-1"),
        ("DEEPSERVE_DEVICE", "tpu"),
        ("DEEPSERVE_MODELS_DIR", "/nowhere"),
        ("DEEPSERVE_MAX_BODY_BYTES", "-1"),
        ("DEEPSERVE_RATE_LIMIT_PER_SECOND", "1e-300"),
        ("DEEPSERVE_CANARY", '{"sentimant": {"version": "2", "share": 0.1}}'),
    ],
)
def test_an_invalid_setting_is_named_and_stops_the_start(name: str, value: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "service"],
        cwd=ROOT,
        env={**clean_environment(), name: value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode != 0
    assert name in ended.stderr
    assert ended.stderr.count("DEEPSERVE_") == 1
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_broken_device_stops_the_start_with_the_reason(device: gpu.GPU) -> None:
    if (trouble := gpu.unavailable_reason(device)) is None:
        pytest.skip(f"{device} works here")
    ended = subprocess.run(
        [sys.executable, "-m", "service"],
        cwd=ROOT,
        env={**clean_environment(), "DEEPSERVE_DEVICE": device},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode != 0
    assert f"DEEPSERVE_DEVICE: {device} does not work: {trouble}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_auto_logs_the_provider_of_every_version(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(MODELS / "mammogram" / "1", models / "mammogram" / "1")
    provider = "CPUExecutionProvider" if gpu.unavailable_reason("cuda") else "CUDAExecutionProvider"
    labels = f'device="auto",model="mammogram",precision="float32",provider="{provider}",version="1"'
    with serving(tmp_path / "log", models_dir=str(models), device="auto", workers="auto") as url:
        assert httpx.get(f"{url}/readyz").status_code == 200
        assert f"deepserve_model_provider{{{labels}}}" in httpx.get(f"{url}/metrics").text


def test_a_broken_version_never_takes_a_good_one_down(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(MODELS / "digits", models / "digits")
    graph = models / "digits" / "2" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    with serving(tmp_path / "log", models_dir=str(models)) as url:
        assert httpx.get(f"{url}/readyz").status_code == 200  # digits has a version that is ready
        versions = httpx.get(f"{url}/v1/models/digits").json()["versions"]
        assert [version["state"] for version in versions] == ["READY", "UNAVAILABLE"]
        assert "model.onnx" in versions[1]["reason"]
        picture = DIGIT.read_bytes()
        headers = {"Content-Type": "image/jpeg"}
        answer = httpx.post(f"{url}/v1/digits", content=picture, headers=headers)
        assert (answer.status_code, answer.json()["version"]) == (200, "1")
        assert httpx.post(f"{url}/v1/digits?version=2", content=picture, headers=headers).status_code == 503
        assert httpx.post(f"{url}/v1/sentiment", json={"reviews": ["x"]}).status_code == 404


def test_configured_keys_are_required(tmp_path: Path) -> None:
    with serving(tmp_path / "log", api_keys="first-key, second-key") as url:
        for key, status in (("first-key", 200), ("second-key", 200), ("third-key", 401), ("", 401)):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            answer = httpx.post(f"{url}/v1/mammogram", json={"masses": [{"age": 50}]}, headers=headers)
            assert answer.status_code == status
        assert answer.headers["www-authenticate"] == "Bearer"
        assert httpx.get(f"{url}/v1/models").status_code == 401
        for path in ("/v2", "/v2/models/digits", "/v2/models/stats"):
            assert httpx.get(f"{url}{path}", headers={"Authorization": "Bearer second-key"}).status_code == 200
            refused = httpx.get(f"{url}{path}")
            assert (refused.status_code, list(refused.json())) == (401, ["error"])
        for path in ("/livez", "/readyz", "/metrics", "/docs.json", "/v2/health/live", "/v2/health/ready"):
            assert httpx.get(f"{url}{path}").status_code == 200


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = subprocess.run(
            [sys.executable, "-m", "service"],
            cwd=ROOT,
            env={**clean_environment(), "DEEPSERVE_PORT": str(taken.getsockname()[1])},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode != 0
    assert "DEEPSERVE_PORT" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_two_workers_share_the_requests_and_their_metrics_are_summed(tmp_path: Path) -> None:
    body = {"masses": [{"age": 50}]}
    with serving(tmp_path / "log", workers="2", worker="3") as url:
        for _ in range(40):
            assert httpx.post(f"{url}/v1/mammogram", json=body).status_code == 200  # a connection each
        time.sleep(2 * FLUSH_SECONDS)  # each worker shares its counts twice a second
        text = httpx.get(f"{url}/metrics").text
        [statistics] = httpx.get(f"{url}/v2/models/mammogram/versions/2/stats").json()["model_stats"]
    assert statistics["inference_count"] == statistics["inference_stats"]["success"]["count"] == 40
    labels = 'model="mammogram",outcome="ok",route="/v1/mammogram",version="2"'
    counted = re.search(rf"deepserve_requests_total{{{labels}}} (\S+)", text)
    assert counted is not None
    assert float(counted[1]) == 40
    log = (tmp_path / "log").read_text()
    assert log.count("model mammogram version 2 is ready") == 2
    assert log.count("DEEPSERVE_WORKER is not a setting; is DEEPSERVE_WORKERS meant?") == 1


def test_a_server_completes_its_requests_before_it_stops(tmp_path: Path) -> None:
    body = b'{"reviews": ["fine"]}'
    head = f"POST /v1/sentiment HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"

    def send_body_when_it_stops(connection: socket.socket, url: str) -> bytes:
        with suppress(httpx.TransportError):
            while httpx.get(f"{url}/readyz", timeout=3).is_success:  # a stopping server accepts no connection
                pass
        with connection:
            connection.sendall(body)
            return connection.recv(65536)

    with ThreadPoolExecutor() as pool, serving(tmp_path / "log") as url:
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(head.encode())
            assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"  # the request is in progress
            response = pool.submit(send_body_when_it_stops, connection.dup(), url)
    assert response.result().startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_server_is_not_ready_if_a_model_has_no_ready_version(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(MODELS / "mammogram" / "1", models / "mammogram" / "1")
    (models / "mammogram" / "1" / "golden.npz").write_bytes(b"")
    with serving(tmp_path / "log", ready=False, models_dir=str(models)) as url:
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert httpx.get(f"{url}/livez").status_code == 200
        assert httpx.post(f"{url}/v1/mammogram", json={"masses": [{"age": 50}]}).status_code == 503


def test_a_version_that_does_not_fit_its_task_is_not_served(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(MODELS / "mammogram" / "1", models / "mammogram" / "1")
    shutil.copytree(MODELS / "digits" / "1", models / "mammogram" / "2")
    card = Card.read(models / "mammogram" / "2")
    card.model_copy(update={"name": "mammogram", "version": "2"}).write(models / "mammogram" / "2")
    with serving(tmp_path / "log", models_dir=str(models)) as url:
        states = [version["state"] for version in httpx.get(f"{url}/v1/models/mammogram").json()["versions"]]
        assert states == ["READY", "UNAVAILABLE"]
        answer = httpx.post(f"{url}/v1/mammogram", json={"masses": [{"age": 50}]})
        assert (answer.status_code, answer.json()["version"]) == (200, "1")
