"""An admin key, and no other, allows loading and unloading models in every worker."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.live.conftest import CLIENTS, serving
from tests.paths import MODELS

ADMIN, CLIENT = "Bearer an-admin-key", "Bearer a-key"

EVERYTHING = [("digits", "1"), ("digits", "2"), ("mammogram", "1")]

Document = dict[str, object]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the models directory of the server below."""
    directory = tmp_path_factory.mktemp("models")
    for name, version in EVERYTHING:
        shutil.copytree(MODELS / name / version, directory / name / version)
    return directory


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a server with keys and two workers."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(log, models_dir=str(models), workers="2", api_keys="a-key", admin_keys="an-admin-key") as url:
        yield url


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[httpx.Client]:
    """Return a client of that server that uses a new connection per request, to reach every worker."""
    with httpx.Client(base_url=server, timeout=60, limits=httpx.Limits(max_keepalive_connections=0)) as made:
        yield made


@pytest.fixture
def changed(client: httpx.Client, models: Path) -> Iterator[httpx.Client]:
    """Return a client for tests that change the loaded models, and restore them afterwards."""
    yield client
    shutil.rmtree(models / "digits" / "3", ignore_errors=True)
    for model in ("digits", "mammogram"):
        assert change(client, model, "load").status_code == 200


def change(client: httpx.Client, model: str, what: str, body: object = b"", key: str = ADMIN) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body)
    headers = {"Authorization": key}
    return client.post(f"/v2/repository/models/{model}/{what}", content=content, headers=headers)


def with_policy(policy: Document) -> Document:
    return {"parameters": {"config": json.dumps({"version_policy": policy})}}


def infer(client: httpx.Client, model: str = "digits", key: str = CLIENT) -> httpx.Response:
    tensor = {
        "digits": {"name": "pictures", "shape": [1, 28, 28], "datatype": "UINT8", "data": [0] * 784},
        "mammogram": {"name": "masses", "shape": [1, 4], "datatype": "FP32", "data": [50, 1, 1, 1]},
    }[model]
    return client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]}, headers={"Authorization": key})


def answering(client: httpx.Client, model: str = "digits") -> set[str | int]:
    """Return the versions or error statuses of the responses on enough connections to reach every worker."""
    answers = [infer(client, model) for _ in range(12)]
    return {each.json()["model_version"] if each.status_code == 200 else each.status_code for each in answers}


def ready(client: httpx.Client) -> list[tuple[str, str]]:
    """Return the models and versions that are ready according to the index."""
    index = client.post("/v2/repository/index", json={"ready": True}, headers={"Authorization": CLIENT}).json()
    return [(each["name"], each["version"]) for each in index]


def policy(client: httpx.Client) -> object:
    return client.get("/v2/models/digits/config", headers={"Authorization": CLIENT}).json()["version_policy"]


def refused(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    return str(response.json()["error"])


def test_the_extension_is_announced(client: httpx.Client) -> None:
    extensions = client.get("/v2", headers={"Authorization": CLIENT}).json()["extensions"]
    assert {"model_repository", "model_repository(unload_dependents)"} <= set(extensions)


@pytest.mark.parametrize("what", ["load", "unload"])
@pytest.mark.parametrize("key", [CLIENT, "Bearer another", "Basic an-admin-key", ""])
def test_the_repository_requires_an_admin_key(client: httpx.Client, what: str, key: str) -> None:
    answer = change(client, "digits", what, key=key)
    refused(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert ready(client) == EVERYTHING


def test_an_admin_key_does_not_allow_inference(client: httpx.Client) -> None:
    refused(infer(client, key=ADMIN), 401)


@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        ({"specific": {"versions": [1]}}, ["1"]),
        ({"specific": {"versions": [1, 2]}}, ["1", "2"]),
        ({"latest": {"num_versions": 1}}, ["2"]),
        ({"all": {}}, ["1", "2"]),
    ],
)
def test_a_policy_selects_the_versions_of_every_worker(
    changed: httpx.Client, chosen: Document, numbers: list[str]
) -> None:
    assert change(changed, "digits", "load", with_policy(chosen)).status_code == 200
    assert answering(changed) == {numbers[-1]}
    assert policy(changed) == chosen
    assert [number for name, number in ready(changed) if name == "digits"] == numbers


def test_a_load_without_parameters_restores_the_configured_policy(changed: httpx.Client) -> None:
    before = policy(changed)
    change(changed, "digits", "load", with_policy({"specific": {"versions": [1]}}))
    assert change(changed, "digits", "load").status_code == 200
    assert answering(changed) == {"2"}
    assert policy(changed) == before


def configuration(client: httpx.Client, version: str = "2") -> Document:
    path = f"/v2/models/digits/versions/{version}/config"
    found: Document = client.get(path, headers={"Authorization": CLIENT}).json()
    return found


def with_configuration(config: Document) -> Document:
    return {"parameters": {"config": json.dumps(config)}}


def test_a_client_can_load_with_the_configuration_that_the_server_returned(changed: httpx.Client) -> None:
    for version in ("1", "2"):
        got = configuration(changed, version)
        assert change(changed, "digits", "load", with_configuration(got)).status_code == 200
        assert configuration(changed, version) == got
    only_1 = {**got, "version_policy": {"specific": {"versions": ["1"]}}}
    assert change(changed, "digits", "load", with_configuration(only_1)).status_code == 200
    assert answering(changed) == {"1"}
    assert change(changed, "digits", "unload").status_code == 200
    assert change(changed, "digits", "load", with_configuration(got)).status_code == 200
    assert answering(changed) == {"2"}


def test_a_policy_may_be_written_in_camel_case_and_in_strings(changed: httpx.Client) -> None:
    asked = with_configuration({"versionPolicy": {"specific": {"versions": ["1"]}}})
    assert change(changed, "digits", "load", asked).status_code == 200
    assert policy(changed) == {"specific": {"versions": [1]}}
    asked = with_configuration({"name": "digits", "versionPolicy": {"latest": {"numVersions": "1"}}})
    assert change(changed, "digits", "load", asked).status_code == 200
    assert policy(changed) == {"latest": {"num_versions": 1}}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\xef\xbb\xbf{}",
        {"parameters": None},
        {"parameters": {}},
        {"parameters": {"config": None, "file:3/model.onnx": None}},
        {"parameters": {"config": ""}},
        {"parameters": {"config": "{}"}},
        {"parameters": {"config": '{"version_policy": null}'}},
    ],
)
def test_null_in_a_load_request_means_absent(changed: httpx.Client, body: object) -> None:
    before = policy(changed)
    assert change(changed, "digits", "load", with_policy({"specific": {"versions": [1]}})).status_code == 200
    assert change(changed, "digits", "load", body).status_code == 200
    assert policy(changed) == before


@pytest.mark.parametrize(
    "body", [b"", b"\xef\xbb\xbf{}", {"parameters": None}, {"parameters": {"unload_dependents": None}}]
)
def test_null_in_an_unload_request_means_absent(changed: httpx.Client, body: object) -> None:
    assert change(changed, "mammogram", "unload", body).status_code == 200
    assert answering(changed, "mammogram") == {503}


def test_an_unloaded_model_is_unavailable_and_the_server_stays_ready(changed: httpx.Client) -> None:
    assert change(changed, "mammogram", "unload", {"parameters": {"unload_dependents": True}}).status_code == 200
    assert answering(changed, "mammogram") == {503}
    assert answering(changed) == {"2"}
    assert ready(changed) == [("digits", "1"), ("digits", "2")]
    assert changed.get("/readyz").status_code == 200
    assert change(changed, "mammogram", "load", {}).status_code == 200
    assert answering(changed, "mammogram") == {"1"}


def test_a_failed_load_gives_the_reason_and_leaves_other_versions_serving(changed: httpx.Client, models: Path) -> None:
    shutil.copytree(models / "digits" / "2", models / "digits" / "3")
    assert "version 3: card.json" in refused(change(changed, "digits", "load"), 400)
    assert answering(changed) == {"2"}
    assert ready(changed) == EVERYTHING


def test_a_change_is_completed_even_if_its_client_hangs_up(changed: httpx.Client) -> None:
    body = json.dumps(with_policy({"specific": {"versions": [1]}}))
    head = f"POST /v2/repository/models/digits/load HTTP/1.1\r\nHost: deepserve\r\nAuthorization: {ADMIN}\r\n"
    head += f"X-Request-Timeout: 0.001\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((changed.base_url.host, changed.base_url.port), timeout=60) as connection:
        connection.sendall((head + body).encode())  # in one piece: its body is there before its time is over
        assert connection.recv(1000).startswith(b"HTTP/1.1 504 ")
    end = time.monotonic() + 30
    while answering(changed) != {"1"}:
        assert time.monotonic() < end


def test_tritonclient_can_load_and_unload_versions(changed: httpx.Client, server: str, clients_python: Path) -> None:
    command = [clients_python, CLIENTS / "roll_triton.py", server.removeprefix("http://"), "an-admin-key", "a-key"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert ready(changed) == EVERYTHING


@pytest.mark.parametrize("model", ["nothing", "Digits", "..", "%2e%2e", "a%2fb", "digits%00", "d" * 65])
@pytest.mark.parametrize("what", ["load", "unload"])
def test_only_models_of_the_repository_can_be_loaded(client: httpx.Client, model: str, what: str) -> None:
    refused(change(client, model, what), 404)


def test_a_missing_version_is_a_404(client: httpx.Client) -> None:
    assert "9" in refused(change(client, "digits", "load", with_policy({"specific": {"versions": [1, 9]}})), 404)
    assert ready(client) == EVERYTHING


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"[", "load"),
        (b"[" * 60_000, "load"),
        (b"\xff", "load"),
        ([], "load"),
        ({"url": "http://127.0.0.1/model"}, "url"),
        ({"parameters": {"url": "http://127.0.0.1/model"}}, "url"),
        ({"parameters": {"file:3/model.onnx": "AAAA", "config": "{}"}}, "file:3/model.onnx"),
        ({"parameters": {"config": {}}}, "config"),
        ({"parameters": {"config": "{"}}, "version_policy"),
        ({"parameters": {"config": '{"max_batch_size": 1}'}}, "max_batch_size"),
        ({"parameters": {"config": '{"maxBatchSize": 1}'}}, "max_batch_size"),
        ({"parameters": {"config": '{"no_such_field": 1}'}}, "no_such_field"),
        ({"parameters": {"config": '{"default_model_filename": "/etc/passwd"}'}}, "default_model_filename"),
        (with_policy({}), "version_policy"),
        (with_policy({"newest": {}}), "newest"),
        (with_policy({"latest": {}}), "num_versions"),
        (with_policy({"latest": {"num_versions": 0}}), "num_versions"),
        (with_policy({"latest": {"num_versions": 10**9}}), "num_versions"),
        (with_policy({"specific": {"versions": []}}), "versions"),
        (with_policy({"specific": {"versions": ["../2"]}}), "versions"),
        (with_policy({"all": {}, "latest": {"num_versions": 1}}), "version_policy"),
    ],
)
def test_a_load_request_accepts_only_a_version_policy(client: httpx.Client, body: object, word: str) -> None:
    assert word in refused(change(client, "digits", "load", body), 400)
    assert ready(client) == EVERYTHING


@pytest.mark.parametrize("parameters", [{"unload_dependents": "yes"}, {"config": "{}"}])
def test_an_unload_request_accepts_no_other_parameters(client: httpx.Client, parameters: Document) -> None:
    refused(change(client, "digits", "unload", {"parameters": parameters}), 400)
    assert ready(client) == EVERYTHING


@pytest.mark.parametrize("what", ["load", "unload"])
def test_the_body_is_bounded(client: httpx.Client, what: str) -> None:
    refused(change(client, "digits", what, b" " * 65_537), 413)


@pytest.mark.parametrize("what", ["load", "unload"])
def test_other_methods_are_a_405(client: httpx.Client, what: str) -> None:
    answer = client.get(f"/v2/repository/models/digits/{what}", headers={"Authorization": ADMIN})
    refused(answer, 405)
    assert answer.headers["allow"] == "POST"
