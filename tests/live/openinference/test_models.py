"""V2 metadata and statistics of the server and its models."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.api.v2.schema import DATATYPES
from service.registry.card import GRAPHS, Card
from tests.live.conftest import serving
from tests.live.openinference.asking import (
    VERSIONS,
    Document,
    address,
    every_version,
    in_json,
    outputs_of,
    picture,
    refused,
)
from tests.paths import MODELS


def test_the_server_and_its_models_describe_themselves(client: httpx.Client) -> None:
    assert client.get("/v2").json()["name"] == "deepserve"
    assert client.get("/v2/").json() == client.get("/v2").json()
    assert client.get("/v2/models").json() == {"models": sorted({d.parent.name for d in VERSIONS})}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    index = client.post("/v2/repository/index").json()
    assert [(each["name"], each["version"]) for each in index] == [(d.parent.name, d.name) for d in VERSIONS]
    assert {each["state"] for each in index} == {"READY"}
    refused(client.post("/v2/repository/index", content=b"["), 400)


@pytest.mark.parametrize("change", ["load", "unload"])
def test_without_admin_keys_the_repository_is_read_only(client: httpx.Client, change: str) -> None:
    answer = client.post(f"/v2/repository/models/digits/{change}", headers={"Authorization": "Bearer any"})
    assert "DEEPSERVE_ADMIN_KEYS" in refused(answer, 404)
    assert "model_repository" not in client.get("/v2").json()["extensions"]


@every_version
def test_a_model_describes_itself(client: httpx.Client, directory: Path) -> None:
    card = Card.read(directory)
    metadata = client.get(address(directory)).json()
    assert metadata["name"] == card.name
    assert directory.name in metadata["versions"]
    for kind, specs in (("inputs", card.inputs), ("outputs", card.outputs)):
        assert [(tensor["name"], tensor["datatype"]) for tensor in metadata[kind]] == [
            (spec.name, DATATYPES[spec.dtype]) for spec in specs
        ]
        assert all(tensor["shape"][0] == -1 for tensor in metadata[kind])
    config = client.get(f"{address(directory)}/config").json()
    assert config["max_batch_size"] == 64
    assert config["default_model_filename"] == GRAPHS[card.precisions[-1]]
    assert [tensor["dims"] for tensor in config["input"]] == [tensor["shape"][1:] for tensor in metadata["inputs"]]
    assert client.get(f"{address(directory)}/ready").json() == {"name": card.name, "ready": True}


def test_an_unready_version_is_reported_as_such(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for number in ("1", "2"):
        shutil.copytree(MODELS / "digits" / number, models / "digits" / number)
    shutil.copytree(MODELS / "mammogram" / "1", models / "mammogram" / "1")
    (models / "digits" / "2" / "golden.npz").write_bytes(b"")
    (models / "mammogram" / "1" / "golden.npz").write_bytes(b"")
    with serving(tmp_path / "log", ready=False, models_dir=str(models)) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v2/health/live").status_code == 200
        refused(client.get("/v2/health/ready"), 503)
        assert client.get("/v2/models/digits/ready").status_code == 200
        for path in ("digits/versions/2", "mammogram/versions/1", "mammogram"):
            for tail in ("", "/ready", "/config", "/stats")[: None if "versions" in path else 3]:
                refused(client.get(f"/v2/models/{path}{tail}"), 503)
        assert client.get("/v2/models/digits").json()["versions"] == ["1"]
        answer = client.post("/v2/models/digits/infer", json={"inputs": [picture()]})
        assert answer.json()["model_version"] == "1"
        states = {(each["name"], each["version"]): each for each in client.post("/v2/repository/index").json()}
        assert states["digits", "1"]["state"] == "READY"
        assert states["digits", "2"]["state"] == states["mammogram", "1"]["state"] == "UNAVAILABLE"
        assert "golden.npz" in states["digits", "2"]["reason"]
        ready = client.post("/v2/repository/index", json={"ready": True}).json()
        assert [(each["name"], each["version"]) for each in ready] == [("digits", "1")]


def test_metrics_have_routes_and_never_paths(client: httpx.Client) -> None:
    client.post("/v2/models/digits/infer", json={"inputs": [picture()]})
    client.post("/v2/models/digits/versions/1/infer", json={"inputs": [picture()]})
    client.get("/v2/models/no-such-model")
    text = client.get("/metrics").text
    assert 'route="/v2/models/{name}/infer"' in text
    assert 'route="/v2/models/{name}/versions/{version}/infer"' in text
    assert "/v2/models/digits" not in text
    assert "no-such-model" not in text


def test_statistics_count_rows_runs_and_requests(client: httpx.Client) -> None:
    def statistics() -> Document:
        [found] = client.get("/v2/models/digits/versions/1/stats").json()["model_stats"]
        return dict(found)

    def infer(rows: int) -> None:
        outputs_of(client.post("/v2/models/digits/versions/1/infer", json={"inputs": [picture(rows)]}))

    before = statistics()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(infer, range(1, 9)))
    after = statistics()
    assert after["inference_count"] - before["inference_count"] == sum(range(1, 9))
    assert 1 <= after["execution_count"] - before["execution_count"] <= 8
    success, queue, run = (after["inference_stats"][name] for name in ("success", "queue", "compute_infer"))
    assert success["count"] - before["inference_stats"]["success"]["count"] == 8
    assert queue["count"] == success["count"]
    assert 0 < run["ns"] <= success["ns"]
    assert 0 <= queue["ns"] < success["ns"]
    assert before["last_inference"] <= after["last_inference"] <= time.time() * 1000
    assert time.time() * 1000 - after["last_inference"] < 60_000
    assert {each["version"] for each in client.get("/v2/models/digits/stats").json()["model_stats"]} >= {"1", "2"}
    every = client.get("/v2/models/stats").json()["model_stats"]
    assert [(each["name"], each["version"]) for each in every] == [(d.parent.name, d.name) for d in VERSIONS]


def test_statistics_have_the_duration_of_each_batch_size(client: httpx.Client) -> None:
    def batches() -> dict[int, Document]:
        [found] = client.get("/v2/models/mammogram/versions/2/stats").json()["model_stats"]
        sizes = [each["batch_size"] for each in found["batch_stats"]]
        assert sizes == sorted(set(sizes))
        assert (
            sum(each["batch_size"] * each["compute_infer"]["count"] for each in found["batch_stats"])
            == (found["inference_count"])
        )
        for stage in ("compute_input", "compute_infer", "compute_output"):
            total = found["inference_stats"][stage]
            assert total["count"] == found["execution_count"]
            assert total["ns"] == pytest.approx(sum(each[stage]["ns"] for each in found["batch_stats"]), abs=64)
        return {each["batch_size"]: each for each in found["batch_stats"]}

    before = batches()
    for rows in (5, 9, 5):
        tensor = in_json("masses", np.ones((rows, 4), np.float32))
        outputs_of(client.post("/v2/models/mammogram/infer", json={"inputs": [tensor]}))
    after = batches()
    for rows, runs in ((5, 2), (9, 1)):
        for stage in ("compute_input", "compute_infer", "compute_output"):
            earlier = before.get(rows, {}).get(stage, {"count": 0, "ns": 0})
            assert after[rows][stage]["count"] - earlier["count"] == runs
            assert 0 < after[rows][stage]["ns"] - earlier["ns"] < 10**9


@pytest.mark.parametrize("kind", ["systemsharedmemory", "cudasharedmemory"])
def test_shared_memory_gets_the_response_of_a_triton_without_it(client: httpx.Client, kind: str) -> None:
    assert client.get(f"/v2/{kind}/status").json() == []
    for path in (f"/v2/{kind}", f"/v2/{kind}/region/mine"):
        assert client.post(f"{path}/unregister").json() == {}
        assert client.post(f"{path}/unregister", content=b"{}").status_code == 200
    assert "mine" in refused(client.get(f"/v2/{kind}/region/mine/status"), 404)
    registered = client.post(f"/v2/{kind}/region/mine/register", json={"key": "/mine", "offset": 0, "byte_size": 64})
    assert "not supported" in refused(registered, 400)
    refused(client.get(f"/v2/{kind}/region/mine/register"), 405)
    refused(client.post(f"/v2/{kind}/status"), 405)


@pytest.mark.parametrize("path", ["/v2/trace/setting", "/v2/models/digits/trace/setting", "/v2/logging"])
def test_trace_and_log_settings_are_rejected_with_the_reason(client: httpx.Client, path: str) -> None:
    assert "not supported" in refused(client.get(path), 400)
    assert "not supported" in refused(client.post(path, json={}), 400)
    refused(client.delete(path), 405)


def test_the_index_accepts_null_or_an_empty_body(client: httpx.Client) -> None:
    every = client.post("/v2/repository/index", json={}).json()
    for body in (b"", b'{"ready": null}', b'\xef\xbb\xbf{"ready": null}', b'{"ready": false, "repository_name": null}'):
        assert client.post("/v2/repository/index", content=body).json() == every
    for body in (b"null", b"[]", b'{"ready": "yes"}', b'{"ready": 1}', b"\xff\xfe{\x00}\x00", b"[" * 60_000, b"{} x"):
        refused(client.post("/v2/repository/index", content=body), 400)
