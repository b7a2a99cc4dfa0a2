"""A server that watches its models directory loads new versions, and keeps loaded ones when their files vanish."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.live.conftest import serving
from tests.live.rollout.asking import (
    CNN,
    MLP,
    WORKERS,
    Traffic,
    answering,
    index,
    order,
    put,
    retrain,
    states,
    statuses,
    workers,
)
from tests.paths import MODELS
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, Path]]:
    """Return address, models directory and log of a server with two workers that watches its models directory."""
    folder = tmp_path_factory.mktemp("watched")
    for version in ("digits/1", "digits/2", "mammogram/1"):
        shutil.copytree(MODELS / version, folder / "models" / version)
    settings = {"watch_seconds": "0.3", "workers": str(WORKERS), "threads": "1", "admin_keys": "admin"}
    with serving(folder / "log", models_dir=str(folder / "models"), **settings) as url:
        yield url, folder / "models", folder / "log"


@pytest.fixture
def url(watched: tuple[str, Path, Path]) -> Iterator[str]:
    """Return the address; the models are restored afterwards."""
    address, models, _ = watched
    yield address
    shutil.rmtree(models / "digits", ignore_errors=True)
    shutil.rmtree(models / "fashion", ignore_errors=True)
    shutil.copytree(MODELS / "digits", models / "digits")
    assert order(address, "load", "digits").status_code == 200
    wait_until(lambda: states(address, "digits") == {"1": "READY", "2": "READY"} and not index(address, "fashion"))
    wait_until(lambda: httpx.get(f"{address}/readyz").is_success)


@pytest.fixture
def models(watched: tuple[str, Path, Path]) -> Path:
    """Return its models directory."""
    return watched[1]


@pytest.fixture
def log(watched: tuple[str, Path, Path]) -> Path:
    """Return its log."""
    return watched[2]


def missing(url: str) -> dict[str, float]:
    """Return by labels the number of workers that serve a version without its files."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    found = [line.rsplit(" ", 1) for line in lines if line.startswith("deepserve_model_files_missing{")]
    return {labels.partition("{")[2].rstrip("}"): float(value) for labels, value in found if float(value)}


def test_a_slowly_copied_version_is_served_when_it_is_complete(url: str, models: Path, tmp_path: Path) -> None:
    put(MLP, tmp_path, "digits", "3")
    with Traffic(url, {"2": CNN, "3": MLP}) as traffic:
        traffic.wait_for("2", 20)
        (models / "digits" / "3").mkdir()
        for file in sorted((tmp_path / "digits" / "3").iterdir()):
            shutil.copy(file, models / "digits" / "3")
            time.sleep(0.2)
            ready = httpx.get(f"{url}/readyz")
            assert ready.is_success, ready.text
        traffic.wait_for("3", 20)
    assert traffic.faults == []
    assert states(url, "digits") == {"1": "UNAVAILABLE", "2": "READY", "3": "READY"}


def test_a_lost_mount_unloads_nothing(url: str, models: Path, log: Path) -> None:
    with Traffic(url, {"2": CNN}) as traffic:
        traffic.wait_for("2", 20)
        models.rename(models.with_name("unmounted"))
        models.mkdir()
        all_of_them = {'model="digits",version="1"', 'model="digits",version="2"', 'model="mammogram",version="1"'}
        wait_until(lambda: missing(url) == dict.fromkeys(all_of_them, WORKERS))
        traffic.wait_for("2", 50)
        assert {each["state"] for each in index(url, "digits")} == {"READY"}
        assert all("its files are missing" in each["reason"] for each in index(url, "digits"))
        shown = httpx.get(f"{url}/v1/models/mammogram").json()
        assert "its files are missing" in shown["versions"][0]["reason"]
        assert statuses(url, "/readyz") == statuses(url, "/v2/health/ready") == {200}
        models.rmdir()
        models.with_name("unmounted").rename(models)
        wait_until(lambda: not missing(url))
        assert [each["reason"] for each in index(url, "digits")] == ["", ""]
    assert traffic.faults == []
    written = log.read_text()
    assert written.count("model digits: the files of versions 1, 2 are missing") == 1
    assert written.count("model digits: the files of versions 1, 2 are back") == 1


def test_a_replaced_worker_is_not_ready_until_it_can_load_the_lost_files(url: str, models: Path, log: Path) -> None:
    models.rename(models.with_name("unmounted"))
    wait_until(lambda: len(missing(url)) == 3)
    worker = workers(url)[0]
    worker.kill()
    worker.wait(10)
    wait_until(
        lambda: "digits (its files are missing), mammogram (its files are missing);" in httpx.get(f"{url}/readyz").text
    )
    assert statuses(url, "/readyz") == {503}
    assert 'deepserve_model_ready{model="digits",version="2"} 0' in httpx.get(f"{url}/metrics").text
    assert (
        "model digits version 2 is unavailable: its files are missing (the models folder: No such file"
        in log.read_text()
    )
    models.with_name("unmounted").rename(models)
    wait_until(lambda: httpx.get(f"{url}/readyz").is_success)
    assert answering(url) == {"2"}


def test_a_deleted_version_serves_until_its_model_is_loaded_again(url: str, models: Path) -> None:
    shutil.rmtree(models / "digits" / "2")
    wait_until(lambda: list(missing(url)) == ['model="digits",version="2"'])
    assert answering(url) == {"2"}
    assert order(url, "load", "digits").status_code == 200
    assert answering(url) == {"1"}
    assert states(url, "digits") == {"1": "READY"}
    assert not missing(url)


def test_a_model_that_fails_leaves_the_server_ready(url: str, models: Path) -> None:
    shutil.copytree(MODELS / "fashion", models / "fashion")
    (models / "fashion" / "1" / "model.onnx").write_bytes(b"")
    wait_until(lambda: [each["state"] for each in index(url, "fashion")] == ["UNAVAILABLE"])
    assert statuses(url, "/readyz") == {200}
    assert order(url, "load", "fashion").status_code == 400
    assert statuses(url, "/readyz") == {200}


def test_a_version_retrained_in_place_is_reloaded_with_a_warning(url: str, models: Path, log: Path) -> None:
    retrain(models / "digits" / "2", 1)
    wait_until(lambda: httpx.get(f"{url}/v1/models/digits").json()["card"]["title"] == "Retrained with seed 1")
    wait_until(
        lambda: log.read_text().count("version 2: its files have been replaced under the same number") == WORKERS
    )
    assert answering(url) == {"2"}
