"""Versions are loaded and unloaded under traffic: no request fails, and each gets the version that it names."""

import json
import shutil
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.live.rollout.asking import (
    ADMIN,
    CNN,
    MLP,
    WORKERS,
    SlowRequest,
    Traffic,
    answering,
    index,
    mammogram,
    order,
    put,
    retrain,
    states,
    versions,
    workers,
)
from tests.paths import DIGIT
from tests.registry.test_verification import claim_another_dtype, flip_a_bit, golden, recorded, truncate


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
def test_a_failed_version_does_not_unload_a_good_one(
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


def test_damaged_files_do_not_affect_loaded_versions(url: str, models: Path) -> None:
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
def test_a_request_that_began_before_its_model_was_unloaded_is_answered(url: str, target: str) -> None:
    mass = {"name": "masses", "shape": [1, 4], "datatype": "FP32", "data": [50, 1, 1, 1]}
    body = {"inputs": [mass]} if target.startswith("/v2") else {"masses": [{"age": 50}]}
    requests = [SlowRequest(url, target, json.dumps(body).encode()) for _ in range(2 * WORKERS)]
    assert order(url, "unload", "mammogram").status_code == 200
    assert mammogram(url) == {503}
    assert [request.finish().status for request in requests] == [200] * len(requests)


def test_a_request_that_began_before_a_change_gets_its_version(url: str) -> None:
    picture = b64encode(DIGIT.read_bytes()).decode()
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


@pytest.mark.parametrize("what", ["load", "unload"])
def test_a_model_name_cannot_forge_a_log_line(url: str, models: Path, what: str) -> None:
    refused = httpx.post(f"{url}/v2/repository/models/x%0a2026 [INFO] forged%1b[31m/{what}", headers=ADMIN)
    assert refused.status_code == 404
    assert "forged" not in (models.parent / "log").read_text()


def test_a_model_that_cannot_be_reloaded_does_not_make_the_server_unready(url: str, models: Path) -> None:
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


def test_replaced_versions_release_their_memory(url: str, models: Path) -> None:
    """Reload a model of 1 MB, 40 MB in memory, ten times."""
    with Traffic(url, {"2": CNN}) as traffic:
        sizes = []
        for reload in range(12):
            retrain(models / "digits" / "2", reload)
            assert order(url, "load", "digits").status_code == 200
            traffic.wait_for("2", 20)
            sizes.append(max(worker.memory_info().rss for worker in workers(url)) / 2**20)
    shutil.copy(CNN / "card.json", models / "digits" / "2")
    assert traffic.faults == []
    assert max(sizes[-2:]) < max(sizes[:2]) + 20, sizes
