"""V2 inference of every model, in JSON and binary, gives the outputs of the golden cases."""

import gzip
import json
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.live.openinference.asking import (
    JSON_LENGTH,
    VERSIONS,
    Document,
    address,
    agree,
    binary,
    described,
    every_version,
    golden,
    in_bytes,
    in_json,
    outputs_of,
    picture,
    refused,
)
from tests.paths import MODELS


@every_version
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_golden_cases_match_in_json(client: httpx.Client, directory: Path, nested: bool) -> None:
    inputs, expected = golden(directory)
    # JSON has no NaN.
    rows = np.flatnonzero([not any(np.isnan(value[row]).any() for value in inputs.values()) for row in range(20)])[:4]
    tensors = [
        described(name, values[rows], data=(values[rows] if nested else values[rows].ravel()).tolist())
        for name, values in inputs.items()
    ]
    answer = client.post(f"{address(directory)}/infer", json={"inputs": tensors})
    agree(outputs_of(answer), {name: values[rows] for name, values in expected.items()})
    content = answer.json()
    assert content["model_name"] == directory.parent.name
    assert content["model_version"] == directory.name
    assert content["id"] == answer.headers["x-request-id"]


@every_version
def test_golden_cases_match_in_binary(client: httpx.Client, directory: Path) -> None:
    inputs, expected = golden(directory)
    answer = client.post(f"{address(directory)}/infer", **in_bytes(inputs))
    assert JSON_LENGTH in answer.headers
    agree(outputs_of(answer), expected)


@every_version
def test_a_raw_binary_request_holds_the_bytes_of_one_row(client: httpx.Client, directory: Path) -> None:
    inputs, expected = golden(directory)
    body = b"".join(values[:1].tobytes() for values in inputs.values())
    answer = client.post(f"{address(directory)}/infer", content=body, headers={JSON_LENGTH: "0"})
    if len(inputs) > 1:
        assert "one input" in refused(answer, 400)
        return
    agree(outputs_of(answer), {name: values[:1] for name, values in expected.items()})


def test_json_and_binary_inputs_can_be_mixed(client: httpx.Client) -> None:
    directory = MODELS / "fashion" / "1"
    inputs, expected = golden(directory)
    for behind in (("latent",), ("label",), ("label", "latent")):
        order = [*behind, *(name for name in inputs if name not in behind)]
        tensors = [
            described(name, inputs[name], parameters={"binary_data_size": inputs[name].nbytes})
            if name in behind
            else in_json(name, inputs[name])
            for name in order
        ]
        request = binary({"inputs": tensors}, *(inputs[name] for name in behind))
        agree(outputs_of(client.post("/v2/models/fashion/infer", **request)), expected)


def test_requested_outputs_have_the_requested_form(client: httpx.Client) -> None:
    inputs, expected = golden(MODELS / "sentiment" / "2")
    asked = {
        "inputs": [in_json("tokens", inputs["tokens"][:2])],
        "outputs": [{"name": "log_odds", "parameters": {"binary_data": False}}, {"name": "probabilities"}],
        "parameters": {"binary_data_output": True},
    }
    answer = client.post("/v2/models/sentiment/infer", json=asked)
    agree(outputs_of(answer), {name: expected[name][:2] for name in ("log_odds", "probabilities")})
    head = json.loads(answer.content[: int(answer.headers[JSON_LENGTH])])
    assert ["data" in output for output in head["outputs"]] == [True, False]
    only = client.post("/v2/models/sentiment/infer", json={**asked, "outputs": [{"name": "probabilities"}]})
    assert list(outputs_of(only)) == ["probabilities"]


def test_every_response_has_an_id(client: httpx.Client) -> None:
    inputs, _ = golden(MODELS / "mammogram" / "2")
    row = inputs["masses"][:1]
    requests = [
        {"json": {"inputs": [in_json("masses", np.ones((1, 4), np.float32))], "id": None}},
        in_bytes({"masses": row}),
        {"content": row.tobytes(), "headers": {JSON_LENGTH: "0"}},
    ]
    for request in requests:
        headers = {**request.pop("headers", {}), "X-Request-ID": "of the request"}
        answer = client.post("/v2/models/mammogram/infer", headers=headers, **request)
        head = json.loads(answer.content[: int(answer.headers.get(JSON_LENGTH, len(answer.content)))])
        assert head["id"] == "of the request"


def test_the_id_of_a_request_is_returned(client: httpx.Client) -> None:
    for given in ("42", "\u00e9\u4e2d\U0001f600", "x" * 1000):
        answer = client.post("/v2/models/digits/infer", json={"id": given, "inputs": [picture()]})
        assert answer.json()["id"] == given


def test_classification_outputs_have_labels(client: httpx.Client) -> None:
    inputs, expected = golden(MODELS / "mammogram" / "2")
    known = [row for row in range(20) if not np.isnan(inputs["masses"][row]).any()][:3]

    def ask(count: int) -> Document:
        request = {
            "inputs": [in_json("masses", inputs["masses"][known])],
            "outputs": [{"name": "probabilities", "parameters": {"classification": count}}],
        }
        answer: Document = client.post("/v2/models/mammogram/infer", json=request).json()["outputs"][0]
        return answer

    best = ask(1)
    assert (best["datatype"], best["shape"]) == ("BYTES", [3, 1])
    for text, row in zip(best["data"], expected["probabilities"][known], strict=True):
        value, index, label = text.split(":")
        assert float(value) == pytest.approx(row.max(), abs=1e-5)
        assert int(index) == row.argmax()
        assert label == ("benign", "malignant")[row.argmax()]
    assert ask(2)["shape"] == [3, 2]
    assert ask(9)["shape"] == [3, 2]
    assert ask(0)["datatype"] == "FP32"


def test_v2_and_the_task_give_the_same_prediction(client: httpx.Client) -> None:
    mass = {"age": 67, "shape": "irregular", "margin": "spiculated", "density": "low"}
    task = client.post("/v1/mammogram", json={"masses": [mass]}).json()["predictions"][0]["probability_malignant"]
    tensor = in_json("masses", np.array([[67, 4, 5, 3]], np.float32))
    found = outputs_of(client.post("/v2/models/mammogram/infer", json={"inputs": [tensor]}))["probabilities"]
    assert found[0, 1] == pytest.approx(task, abs=1e-5)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_requests_and_responses_may_be_compressed(client: httpx.Client, coding: str) -> None:
    inputs, expected = golden(MODELS / "fashion" / "1")
    sent = in_bytes(inputs)
    sent["headers"] |= {"Content-Encoding": coding, "Accept-Encoding": coding}
    sent["content"] = {"gzip": gzip, "deflate": zlib}[coding].compress(sent["content"])
    answer = client.post("/v2/models/fashion/infer", **sent)
    assert answer.headers["content-encoding"] == coding
    assert answer.num_bytes_downloaded < len(answer.content)
    agree(outputs_of(answer), expected)


def test_a_response_is_compressed_only_on_request(client: httpx.Client) -> None:
    request = {"inputs": [picture(32)]}
    for accepted in ("", "identity", "br", "gzip;q=0"):
        answer = client.post("/v2/models/digits/infer", json=request, headers={"Accept-Encoding": accepted})
        assert "content-encoding" not in answer.headers


def test_the_newest_version_is_the_default(client: httpx.Client) -> None:
    answer = client.post("/v2/models/digits/infer", json={"inputs": [picture()]})
    assert answer.json()["model_version"] == max((d.name for d in VERSIONS if d.parent.name == "digits"), key=int)
