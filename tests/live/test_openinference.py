"""The Open Inference Protocol as plain HTTP has it: every model in tensors, what is refused, and how."""

import gzip
import json
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.engine.card import GRAPHS, Card
from service.engine.verification import GOLDEN_TOLERANCE
from service.http.v2.tensors import DATATYPES
from tests.live.conftest import ROOT, serving

Tensors = dict[str, np.ndarray]
Document = dict[str, Any]

VERSIONS = sorted(path.parent for path in ROOT.glob("models/*/*/card.json"))
every_version = pytest.mark.parametrize("directory", VERSIONS, ids=lambda path: f"{path.parent.name}-{path.name}")

LIMIT = 10 * 2**20
JSON_LENGTH = "Inference-Header-Content-Length"


def golden(directory: Path) -> tuple[Tensors, Tensors]:
    """The golden inputs of a version, and what the graph that is served makes of them."""
    kinds = ("in:", "int8:" if "int8" in Card.read(directory).precisions else "out:")
    with np.load(directory / "golden.npz") as cases:
        inputs, outputs = (
            {name.removeprefix(kind): cases[name] for name in cases.files if name.startswith(kind)} for kind in kinds
        )
    return inputs, outputs


def address(directory: Path) -> str:
    return f"/v2/models/{directory.parent.name}/versions/{directory.name}"


def described(name: str, values: np.ndarray, **more: Any) -> Document:
    """The head of an input tensor."""
    return {"name": name, "shape": list(values.shape), "datatype": DATATYPES[values.dtype.name], **more}


def in_json(name: str, values: np.ndarray) -> Document:
    return described(name, values, data=values.ravel().tolist())


def in_bytes(tensors: Tensors) -> dict[str, Any]:
    """What httpx needs to send every input, and ask for every output, in bytes."""
    inputs = [described(name, each, parameters={"binary_data_size": each.nbytes}) for name, each in tensors.items()]
    return binary({"inputs": inputs, "parameters": {"binary_data_output": True}}, *tensors.values())


def picture(rows: int = 1) -> Document:
    """Empty pictures for digits."""
    return in_json("pictures", np.zeros((rows, 28, 28), np.uint8))


def binary(request: Document, *tensors: np.ndarray) -> dict[str, Any]:
    """What httpx needs to send JSON and bytes behind it."""
    head = json.dumps(request).encode()
    body = b"".join([head, *(values.tobytes() for values in tensors)])
    return {"content": body, "headers": {JSON_LENGTH: str(len(head))}}


def outputs_of(response: httpx.Response) -> Tensors:
    """The outputs of an answer, from its JSON and from what stands behind it."""
    assert response.status_code == 200, response.text
    size = int(response.headers.get(JSON_LENGTH, len(response.content)))
    assert response.headers["content-type"] == (
        "application/json" if size == len(response.content) else "application/octet-stream"
    )
    content, rest = json.loads(response.content[:size]), response.content[size:]
    found = {}
    for output in content["outputs"]:
        dtype = {"UINT8": "u1", "FP32": "<f4"}[output["datatype"]]
        if "data" in output:
            values = np.array(output["data"], dtype)
        else:
            size = output["parameters"]["binary_data_size"]
            values, rest = np.frombuffer(rest[:size], dtype), rest[size:]
        found[output["name"]] = values.reshape(output["shape"])
    assert not rest
    return found


def agree(found: Tensors, expected: Tensors) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(
            found[name].astype(float), values.astype(float), atol=GOLDEN_TOLERANCE[values.dtype.kind]
        )


def refused(response: httpx.Response, status: int) -> str:
    """The message of an error answer."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    content = response.json()
    assert list(content) == ["error"]
    assert "Traceback" not in content["error"]
    return str(content["error"])


@every_version
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_the_golden_cases_come_out_of_json(client: httpx.Client, directory: Path, nested: bool) -> None:
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
    assert "id" not in content


@every_version
def test_the_golden_cases_come_out_of_bytes(client: httpx.Client, directory: Path) -> None:
    inputs, expected = golden(directory)
    answer = client.post(f"{address(directory)}/infer", **in_bytes(inputs))
    assert JSON_LENGTH in answer.headers
    agree(outputs_of(answer), expected)


@every_version
def test_nothing_but_the_bytes_of_one_row_is_a_request_too(client: httpx.Client, directory: Path) -> None:
    inputs, expected = golden(directory)
    body = b"".join(values[:1].tobytes() for values in inputs.values())
    answer = client.post(f"{address(directory)}/infer", content=body, headers={JSON_LENGTH: "0"})
    if len(inputs) > 1:
        assert "one input" in refused(answer, 400)
        return
    agree(outputs_of(answer), {name: values[:1] for name, values in expected.items()})


def test_json_and_bytes_mix(client: httpx.Client) -> None:
    directory = ROOT / "models" / "fashion" / "1"
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


def test_outputs_are_those_asked_for_in_the_form_asked_for(client: httpx.Client) -> None:
    inputs, expected = golden(ROOT / "models" / "sentiment" / "1")
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


def test_the_id_of_a_request_comes_back(client: httpx.Client) -> None:
    for given in ("42", "\u00e9\u4e2d\U0001f600", "x" * 1000):
        answer = client.post("/v2/models/digits/infer", json={"id": given, "inputs": [picture()]})
        assert answer.json()["id"] == given


def test_classes_come_with_their_labels(client: httpx.Client) -> None:
    inputs, expected = golden(ROOT / "models" / "mammogram" / "1")
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


def test_a_mass_gets_the_same_answer_in_tensors_as_from_its_task(client: httpx.Client) -> None:
    mass = {"age": 67, "shape": "irregular", "margin": "spiculated", "density": "low"}
    task = client.post("/v1/mammogram", json={"masses": [mass]}).json()["predictions"][0]["probability_malignant"]
    tensor = in_json("masses", np.array([[67, 4, 5, 3]], np.float32))
    found = outputs_of(client.post("/v2/models/mammogram/infer", json={"inputs": [tensor]}))["probabilities"]
    assert found[0, 1] == pytest.approx(task, abs=1e-5)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_bodies_and_answers_may_be_compressed(client: httpx.Client, coding: str) -> None:
    inputs, expected = golden(ROOT / "models" / "fashion" / "1")
    sent = in_bytes(inputs)
    sent["headers"] |= {"Content-Encoding": coding, "Accept-Encoding": coding}
    sent["content"] = {"gzip": gzip, "deflate": zlib}[coding].compress(sent["content"])
    answer = client.post("/v2/models/fashion/infer", **sent)
    assert answer.headers["content-encoding"] == coding
    assert answer.num_bytes_downloaded < len(answer.content)
    agree(outputs_of(answer), expected)


def test_an_answer_is_not_compressed_unasked(client: httpx.Client) -> None:
    request = {"inputs": [picture(32)]}
    for accepted in ("", "identity", "br", "gzip;q=0"):
        answer = client.post("/v2/models/digits/infer", json=request, headers={"Accept-Encoding": accepted})
        assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_the_body_limit_holds_after_inflation(client: httpx.Client, coding: str) -> None:
    bomb = {"gzip": gzip, "deflate": zlib}[coding].compress(b" " * (LIMIT + 1))
    assert len(bomb) < 50_000
    headers = {"Content-Encoding": coding}
    refused(client.post("/v2/models/digits/infer", content=bomb, headers=headers), 413)
    short = {"gzip": gzip, "deflate": zlib}[coding].compress(json.dumps({"inputs": [picture()]}).encode())
    refused(client.post("/v2/models/digits/infer", content=short[:-5], headers=headers), 400)


def test_other_codings_are_a_415(client: httpx.Client) -> None:
    answer = client.post("/v2/models/digits/infer", content=b"x", headers={"Content-Encoding": "br"})
    assert "gzip" in refused(answer, 415)
    assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_the_body_limit(client: httpx.Client) -> None:
    refused(client.post("/v2/models/digits/infer", content=b" " * (LIMIT + 1)), 413)
    padded = json.dumps({"inputs": [picture()]}).encode().ljust(LIMIT)
    refused(client.post("/v2/models/digits/infer", content=padded), 413)
    outputs_of(client.post("/v2/models/digits/infer", content=padded.rstrip().ljust(1_000_000)))


def test_at_most_64_rows_a_request(client: httpx.Client) -> None:
    found = outputs_of(client.post("/v2/models/digits/infer", json={"inputs": [picture(64)]}))
    assert found["probabilities"].shape == (64, 10)
    assert "65 rows" in refused(client.post("/v2/models/digits/infer", json={"inputs": [picture(65)]}), 400)
    assert "64 rows" in refused(client.post("/v2/models/digits/infer", json={"inputs": [picture(2000)]}), 413)


def test_a_sequence_is_as_long_as_the_model_reads(client: httpx.Client) -> None:
    for length, status in ((1, 200), (1024, 200), (1025, 400), (0, 400)):
        tensor = in_json("tokens", np.ones((1, length), np.int64))
        assert client.post("/v2/models/sentiment/infer", json={"inputs": [tensor]}).status_code == status


WRONG: list[tuple[str, Callable[[Document], object], str]] = [
    ("no inputs", lambda r: r.pop("inputs"), "`inputs`"),
    ("inputs are empty", lambda r: r.update(inputs=[]), "lacks the inputs pictures"),
    ("inputs are no list", lambda r: r.update(inputs={"pictures": 1}), "inputs"),
    ("an unknown input", lambda r: r["inputs"][0].update(name="picture"), "The inputs are pictures"),
    ("an input twice", lambda r: r["inputs"].append(r["inputs"][0]), "each once"),
    ("no name", lambda r: r["inputs"][0].pop("name"), "`name`"),
    ("another datatype", lambda r: r["inputs"][0].update(datatype="FP32"), "is UINT8, not FP32"),
    ("no such datatype", lambda r: r["inputs"][0].update(datatype="UINT9"), "is UINT8, not UINT9"),
    ("another shape", lambda r: r["inputs"][0].update(shape=[1, 784]), "[-1, 28, 28], not [1, 784]"),
    ("no rows", lambda r: r["inputs"][0].update(shape=[0, 28, 28], data=[]), "0 rows"),
    ("a negative size", lambda r: r["inputs"][0].update(shape=[-1, 28, 28]), "-1 rows"),
    ("a huge size", lambda r: r["inputs"][0].update(shape=[2**62, 28, 28]), "rows"),
    ("a size that is no whole number", lambda r: r["inputs"][0].update(shape=[1.5, 28, 28]), "shape"),
    ("no data", lambda r: r["inputs"][0].pop("data"), "needs one of data"),
    ("data are null", lambda r: r["inputs"][0].update(data=None), "null"),
    ("data are text", lambda r: r["inputs"][0].update(data="AAAA"), "str"),
    ("too few data", lambda r: r["inputs"][0]["data"].pop(), "783 elements"),
    ("too many data", lambda r: r["inputs"][0]["data"].append(0), "785 elements"),
    ("256", lambda r: r["inputs"][0]["data"].__setitem__(7, 256), "256 at 7, which is no UINT8"),
    ("a negative number", lambda r: r["inputs"][0]["data"].__setitem__(7, -1), "-1 at 7, which is no UINT8"),
    ("a fraction", lambda r: r["inputs"][0]["data"].__setitem__(7, 0.5), "0.5 at 7, which is no UINT8"),
    ("a truth value", lambda r: r["inputs"][0]["data"].__setitem__(7, True), "bool"),
    ("a hole", lambda r: r["inputs"][0]["data"].__setitem__(7, None), "null"),
    ("NaN", lambda r: r["inputs"][0]["data"].__setitem__(7, float("nan")), "malformed"),
    ("a nested row", lambda r: r["inputs"][0]["data"].__setitem__(7, [0]), "array"),
    ("binary and data", lambda r: r["inputs"][0].update(parameters={"binary_data_size": 784}), "needs one of data"),
    ("a negative binary size", lambda r: r["inputs"][0].update(parameters={"binary_data_size": -1}), ">= 0"),
    ("shared memory", lambda r: r["inputs"][0].update(parameters={"shared_memory_region": "x"}), "shared memory"),
    ("an unknown output", lambda r: r.update(outputs=[{"name": "logits"}]), "The outputs are probabilities"),
    ("an output twice", lambda r: r.update(outputs=[{"name": "probabilities"}] * 2), "each once"),
    (
        "an output in shared memory",
        lambda r: r.update(outputs=[{"name": "probabilities", "parameters": {"shared_memory_region": "x"}}]),
        "shared memory",
    ),
    (
        "minus one class",
        lambda r: r.update(outputs=[{"name": "probabilities", "parameters": {"classification": -1}}]),
        ">= 0",
    ),
    ("an id that is no text", lambda r: r.update(id=7), "`$.id`"),
    ("a timeout that is no number", lambda r: r.update(parameters={"timeout": "soon"}), "timeout"),
    ("a timeout without end", lambda r: r.update(parameters={"timeout": 10**400}), "timeout"),
    (
        "a huge binary size",
        lambda r: r["inputs"][0].update(parameters={"binary_data_size": 10**30}),
        "binary_data_size",
    ),
    ("a number of many digits", lambda r: r["inputs"][0]["data"].__setitem__(7, 10**4000), "no UINT8"),
    ("a negative priority", lambda r: r.update(parameters={"priority": -1}), "priority"),
]


@pytest.mark.parametrize(("spoil", "message"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG])
def test_what_is_wrong_with_a_request_is_said(
    client: httpx.Client, spoil: Callable[[Document], object], message: str
) -> None:
    request = {"inputs": [picture()]}
    spoil(request)
    assert message in refused(client.post("/v2/models/digits/infer", content=json.dumps(request)), 400)


@pytest.mark.parametrize("body", [b"", b"{", b"nonsense", b"[]", b"3", b"null", b"[" * 100_000, b'{"inputs": "\xff"}'])
def test_a_body_that_is_no_request_is_a_400(client: httpx.Client, body: bytes) -> None:
    refused(client.post("/v2/models/digits/infer", content=body), 400)


@pytest.mark.parametrize("length", ["x", "-1", "1.5", "999999", "9" * 400, "+3", "\u00b2".encode().decode("latin-1")])
def test_a_json_length_that_cannot_be_is_a_400(client: httpx.Client, length: str) -> None:
    sent = client.build_request(
        "POST", "/v2/models/digits/infer", content=b"{}", headers={JSON_LENGTH: length.encode("latin-1")}
    )
    refused(client.send(sent), 400)


def test_bytes_that_are_missing_or_left_are_a_400(client: httpx.Client) -> None:
    values = np.zeros((1, 28, 28), np.uint8)
    for size, sent, message in ((784, 783, "783 bytes"), (784, 785, "1 bytes behind"), (785, 785, "785 bytes")):
        head = {"inputs": [described("pictures", values, parameters={"binary_data_size": size})]}
        request = binary(head, np.zeros(sent, np.uint8))
        assert message in refused(client.post("/v2/models/digits/infer", **request), 400)


def test_inputs_of_different_rows_are_a_400(client: httpx.Client) -> None:
    tensors = [in_json("latent", np.zeros((2, 64), np.float32)), in_json("label", np.zeros(3, np.int64))]
    assert "number of rows" in refused(client.post("/v2/models/fashion/infer", json={"inputs": tensors}), 400)


@pytest.mark.parametrize("label", [-1, 10, 2**62, -(2**63)])
def test_values_that_the_graph_cannot_compute_are_a_400(client: httpx.Client, label: int) -> None:
    values = {"latent": np.zeros((2, 64), np.float32), "label": np.array([0, label])}
    as_json = {"json": {"inputs": [in_json(*each) for each in values.items()]}}
    for sent in (as_json, in_bytes(values)):
        assert "from 0 to 9" in refused(client.post("/v2/models/fashion/infer", **sent), 400)


def test_what_a_client_wrote_comes_back_cut(client: httpx.Client) -> None:
    for request in (
        {"inputs": [{**picture(), "name": "x" * 1_000_000}]},
        {"inputs": [{**picture(), "shape": [1] * 4000}]},
        {"inputs": [picture()], "outputs": [{"name": "x" * 1_000_000}]},
    ):
        assert len(refused(client.post("/v2/models/digits/infer", json=request), 400)) < 1000


def test_a_timeout_that_has_passed_is_a_504(client: httpx.Client) -> None:
    request = {"inputs": [picture()], "parameters": {"timeout": 1}}
    refused(client.post("/v2/models/digits/infer", json=request), 504)
    for timeout in (10_000_000, 2**63 - 1):
        request["parameters"] = {"timeout": timeout, "priority": 1, "sequence_id": 7, "anything": "else"}
        outputs_of(client.post("/v2/models/digits/infer", json=request))
    hurried = {"X-Request-Timeout": "0.000001"}
    refused(client.post("/v2/models/digits/infer", json={"inputs": [picture()]}, headers=hurried), 504)


def test_without_a_version_the_newest_answers(client: httpx.Client) -> None:
    answer = client.post("/v2/models/digits/infer", json={"inputs": [picture()]})
    assert answer.json()["model_version"] == max((d.name for d in VERSIONS if d.parent.name == "digits"), key=int)


@pytest.mark.parametrize("tail", ["", "/ready", "/config", "/stats", "/infer"])
@pytest.mark.parametrize("model", ["nothing", "digits/versions/99", "digits/versions/x", "../digits", "digits%2f1"])
def test_an_unknown_model_or_version_is_a_404(client: httpx.Client, model: str, tail: str) -> None:
    method = "POST" if tail == "/infer" else "GET"
    refused(client.request(method, f"/v2/models/{model}{tail}"), 404)


@pytest.mark.parametrize(
    "path",
    ["/v2/", "/v2x", "/v2/models", "/v2/models/", "/v2/models/digits/", "/v2/health", "/v2/models/digits/explain"],
)
def test_what_is_not_there_is_a_404(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v2", "GET, HEAD"),
        ("/v2/health/live", "GET, HEAD"),
        ("/v2/models/digits", "GET, HEAD"),
        ("/v2/models/digits/infer", "POST"),
        ("/v2/repository/index", "POST"),
    ],
)
def test_other_methods_are_a_405(client: httpx.Client, path: str, allowed: str) -> None:
    answer = client.delete(path)
    refused(answer, 405)
    assert answer.headers["allow"] == allowed


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
        shutil.copytree(ROOT / "models" / "digits" / number, models / "digits" / number)
    shutil.copytree(ROOT / "models" / "mammogram", models / "mammogram")
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
