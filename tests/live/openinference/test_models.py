"""What the protocol tells of a server, of its models and of what they have done."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service.engine.card import GRAPHS, Card
from service.http.v2.tensors import DATATYPES
from tests.live.conftest import serving
from tests.live.openinference.asking import VERSIONS, Document, address, every_version, outputs_of, picture, refused
from tests.places import MODELS


def test_the_server_and_its_models_describe_themselves(client: httpx.Client) -> None:
    assert client.get("/v2").json()["name"] == "deepserve"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    index = client.post("/v2/repository/index").json()
    assert [(each["name"], each["version"]) for each in index] == [(d.parent.name, d.name) for d in VERSIONS]
    assert {each["state"] for each in index} == {"READY"}
    refused(client.post("/v2/repository/index", content=b"["), 400)


@pytest.mark.parametrize("change", ["load", "unload"])
def test_without_admin_keys_nobody_changes_what_is_served(client: httpx.Client, change: str) -> None:
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


def test_a_version_that_is_not_ready_says_so(tmp_path: Path) -> None:
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


def test_metrics_name_routes_and_never_paths(client: httpx.Client) -> None:
    client.post("/v2/models/digits/infer", json={"inputs": [picture()]})
    client.post("/v2/models/digits/versions/1/infer", json={"inputs": [picture()]})
    client.get("/v2/models/no-such-model")
    text = client.get("/metrics").text
    assert 'route="/v2/models/{name}/infer"' in text
    assert 'route="/v2/models/{name}/versions/{version}/infer"' in text
    assert "/v2/models/digits" not in text
    assert "no-such-model" not in text


def test_the_documentation_names_every_route(client: httpx.Client) -> None:
    paths = client.get("/docs.json").json()["paths"]
    of_model = ("", "/ready", "/config", "/stats", "/infer")
    assert {path for path in paths if path.startswith("/v2")} == {
        *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/v2/repository/index"),
        *(f"/v2/repository/models/{{name}}/{change}" for change in ("load", "unload")),
        *(f"/v2/models/{{name}}{tail}" for tail in of_model),
        *(f"/v2/models/{{name}}/versions/{{version}}{tail}" for tail in of_model),
    }


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
    assert {each["version"] for each in client.get("/v2/models/digits/stats").json()["model_stats"]} >= {"1", "2"}
    every = client.get("/v2/models/stats").json()["model_stats"]
    assert [(each["name"], each["version"]) for each in every] == [(d.parent.name, d.name) for d in VERSIONS]
