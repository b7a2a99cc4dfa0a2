"""Errors of V2 requests: limits, invalid bodies, and unknown paths."""

import gzip
import json
import zlib
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from tests.live.openinference.asking import (
    JSON_LENGTH,
    Document,
    binary,
    described,
    in_bytes,
    in_json,
    outputs_of,
    picture,
    refused,
)

LIMIT = 10 * 2**20


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


def test_a_request_has_at_most_64_rows(client: httpx.Client) -> None:
    found = outputs_of(client.post("/v2/models/digits/infer", json={"inputs": [picture(64)]}))
    assert found["probabilities"].shape == (64, 10)
    assert "65 rows" in refused(client.post("/v2/models/digits/infer", json={"inputs": [picture(65)]}), 400)
    assert "64 rows" in refused(client.post("/v2/models/digits/infer", json={"inputs": [picture(2000)]}), 413)


def test_a_sequence_has_at_most_the_length_that_the_model_reads(client: httpx.Client) -> None:
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
    ("data are null", lambda r: r["inputs"][0].update(data=None), "needs one of data"),
    ("data are text", lambda r: r["inputs"][0].update(data="AAAA"), "str"),
    ("too few data", lambda r: r["inputs"][0]["data"].pop(), "783 elements"),
    ("too many data", lambda r: r["inputs"][0]["data"].append(0), "785 elements"),
    ("256", lambda r: r["inputs"][0]["data"].__setitem__(7, 256), "element 7 is 256, which UINT8 cannot hold"),
    (
        "a negative number",
        lambda r: r["inputs"][0]["data"].__setitem__(7, -1),
        "element 7 is -1, which UINT8 cannot hold",
    ),
    ("a fraction", lambda r: r["inputs"][0]["data"].__setitem__(7, 0.5), "element 7 is 0.5, which UINT8 cannot hold"),
    ("a truth value", lambda r: r["inputs"][0]["data"].__setitem__(7, True), "bool"),
    ("a hole", lambda r: r["inputs"][0]["data"].__setitem__(7, None), "null"),
    ("NaN", lambda r: r["inputs"][0]["data"].__setitem__(7, float("nan")), "malformed"),
    ("a nested row", lambda r: r["inputs"][0]["data"].__setitem__(7, [0]), "element 7 is [0]"),
    ("two nested rows", lambda r: r["inputs"][0].update(data=[[0] * 28] * 28), "not nested as its shape"),
    ("six nested rows", lambda r: r["inputs"][0].update(data=[[[[[[0]]]]]]), "array"),
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
    ("a number of many digits", lambda r: r["inputs"][0]["data"].__setitem__(7, 10**4299), "UINT8 cannot hold"),
    ("a negative priority", lambda r: r.update(parameters={"priority": -1}), "priority"),
]


@pytest.mark.parametrize(("spoil", "message"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG])
def test_an_invalid_request_gets_the_reason(
    client: httpx.Client, spoil: Callable[[Document], object], message: str
) -> None:
    request = {"inputs": [picture()]}
    spoil(request)
    assert message in refused(client.post("/v2/models/digits/infer", content=json.dumps(request)), 400)


@pytest.mark.parametrize(
    "body",
    [
        *(
            b"",
            b"{",
            b"nonsense",
            b"[]",
            b"3",
            b"null",
            b"\x00",
            b"[" * 100_000,
            b'{"x": ' + b"[" * 100_000,
            b"\xef\xbb\xbf",
        ),
        *(json.dumps({"inputs": [picture()]}).encode(coding) for coding in ("utf-16", "utf-16-le", "utf-32")),
        *(json.dumps({"inputs": [picture()]}).encode() + rest for rest in (b" {}", b"x", b"\x00", b"\xef\xbb\xbf")),
        *(b'{"inputs": "\xff"}', b'{"inputs": [], "id": "\\ud800"}', b'{"inputs": [], "id": "\xed\xa0\x80"}'),
        *(b'{"inputs": [], "x": 1e999}', b'{"inputs": [], "x": NaN}', b'{"inputs": [],}', b"{'inputs': []}"),
    ],
)
def test_a_body_that_is_not_an_inference_request_is_a_400(client: httpx.Client, body: bytes) -> None:
    refused(client.post("/v2/models/digits/infer", content=body), 400)


@pytest.mark.parametrize("length", ["x", "-1", "1.5", "999999", "9" * 400, "+3", "\u00b2".encode().decode("latin-1")])
def test_an_impossible_json_length_is_a_400(client: httpx.Client, length: str) -> None:
    sent = client.build_request(
        "POST", "/v2/models/digits/infer", content=b"{}", headers={JSON_LENGTH: length.encode("latin-1")}
    )
    refused(client.send(sent), 400)


def test_missing_or_excess_bytes_are_a_400(client: httpx.Client) -> None:
    values = np.zeros((1, 28, 28), np.uint8)
    for size, sent, message in ((784, 783, "783 bytes"), (784, 785, "1 bytes after"), (785, 785, "785 bytes")):
        head = {"inputs": [described("pictures", values, parameters={"binary_data_size": size})]}
        request = binary(head, np.zeros(sent, np.uint8))
        assert message in refused(client.post("/v2/models/digits/infer", **request), 400)


def test_inputs_with_different_numbers_of_rows_are_a_400(client: httpx.Client) -> None:
    tensors = [in_json("latent", np.zeros((2, 64), np.float32)), in_json("label", np.zeros(3, np.int64))]
    assert "number of rows" in refused(client.post("/v2/models/fashion/infer", json={"inputs": tensors}), 400)


@pytest.mark.parametrize("label", [-1, 10, 2**62, -(2**63)])
def test_values_that_the_graph_cannot_compute_are_a_400(client: httpx.Client, label: int) -> None:
    values = {"latent": np.zeros((2, 64), np.float32), "label": np.array([0, label])}
    as_json = {"json": {"inputs": [in_json(*each) for each in values.items()]}}
    for sent in (as_json, in_bytes(values)):
        assert "from 0 to 9" in refused(client.post("/v2/models/fashion/infer", **sent), 400)


def test_input_in_error_messages_is_truncated(client: httpx.Client) -> None:
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


@pytest.mark.parametrize("tail", ["", "/ready", "/config", "/stats", "/infer"])
@pytest.mark.parametrize("model", ["nothing", "digits/versions/99", "digits/versions/x", "../digits", "digits%2f1"])
def test_an_unknown_model_or_version_is_a_404(client: httpx.Client, model: str, tail: str) -> None:
    method = "POST" if tail == "/infer" else "GET"
    refused(client.request(method, f"/v2/models/{model}{tail}"), 404)


@pytest.mark.parametrize(
    "path",
    ["/v2x", "/v2//", "/v2/models/", "/v2/models/digits/", "/v2/health", "/v2/models/digits/explain"],
)
def test_an_unknown_path_is_a_404(client: httpx.Client, path: str) -> None:
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
