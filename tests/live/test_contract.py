"""The common behaviour of all endpoints: request ids, errors, limits and unknown paths."""

import base64
import json
import re
import socket
import time
from collections.abc import Iterator
from itertools import combinations
from urllib.parse import urlsplit

import httpx
import pytest

from tests.paths import DIGIT

TASKS = ("digits", "sentiment", "mammogram", "fashion")
LIMIT = 10 * 2**20
REVIEW = {"reviews": ["A wonderful little film."]}


def problem(response: httpx.Response, status: int) -> dict[str, object]:
    """Check the common parts of an error response; return its problem document."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    content: dict[str, object] = response.json()
    assert content["status"] == status
    assert content["title"]
    assert content["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    assert "/site-packages" not in response.text
    return content


def test_every_response_has_model_version_and_request_id(client: httpx.Client) -> None:
    response = client.post("/v1/sentiment", json=REVIEW)
    assert response.status_code == 200
    assert response.json()["model"] == "sentiment"
    assert response.json()["version"] == response.headers["x-model-version"]
    assert len(response.headers["x-request-id"]) >= 16


def test_the_request_id_of_the_client_is_returned(client: httpx.Client) -> None:
    response = client.get("/livez", headers={"X-Request-ID": "order 66/b"})
    assert response.headers["x-request-id"] == "order 66/b"


@pytest.mark.parametrize("given", ["x" * 129, "", "caf\u00e9", "a\tb"])
def test_an_unusable_request_id_is_replaced(client: httpx.Client, given: str) -> None:
    response = client.get("/livez", headers={"X-Request-ID": given.encode("latin-1")})
    assert response.status_code == 200
    assert response.headers["x-request-id"] != given


@pytest.mark.parametrize(
    "path", ["/livez", "/healthz", "/readyz", "/metrics", "/docs.json", "/", "/v1/models", "/schema.json"]
)
def test_operations_allow_get_and_head_only(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200
    assert client.get(path, headers={"X-Request-ID": "mine"}).headers["x-request-id"] == "mine"
    head = client.head(path)
    assert head.status_code == 200
    assert head.content == b""
    refused = client.post(path, content=b"")
    problem(refused, 405)
    assert refused.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("task", TASKS)
def test_tasks_allow_post_only(client: httpx.Client, task: str) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        refused = client.request(method, f"/v1/{task}")
        problem(refused, 405)
        assert refused.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/nothing",
        "/v1/digits/",
        "/v1/digits/submit",
        "/predict",
        "/static_content/../app.py",
        "/v1/models/x/y",
    ],
)
def test_an_unknown_path_is_a_404(client: httpx.Client, path: str) -> None:
    problem(client.post(path, json=REVIEW), 404)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("version", ["99", "0", "-1", "../1", "1e0", "latest", ""])
def test_an_unknown_version_is_a_404(client: httpx.Client, task: str, version: str) -> None:
    bodies = {
        "sentiment": REVIEW,
        "mammogram": {"masses": [{"age": 50}]},
        "fashion": {},
        "digits": {"images": ["R0lG"]},
    }
    problem(client.post(f"/v1/{task}", params={"version": version}, json=bodies[task]), 404)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "content_type", ["application/vnd.bentoml+pickle", "text/plain", "application/x-www-form-urlencoded", "text/json"]
)
def test_other_content_types_are_a_415(client: httpx.Client, task: str, content_type: str) -> None:
    problem(client.post(f"/v1/{task}", content=b"{}", headers={"Content-Type": content_type}), 415)


@pytest.mark.parametrize("task", ["sentiment", "mammogram", "fashion"])
@pytest.mark.parametrize("content_type", ["image/png", "multipart/form-data; boundary=x"])
def test_only_tasks_that_take_pictures_take_picture_bodies(client: httpx.Client, task: str, content_type: str) -> None:
    problem(client.post(f"/v1/{task}", content=b"{}", headers={"Content-Type": content_type}), 415)


def test_a_compressed_body_is_a_415(client: httpx.Client) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    problem(client.post("/v1/sentiment", content=b"\x1f\x8b", headers=headers), 415)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"nonsense", b"[" * 100_000, b'{"reviews": ["\x00"'])
def test_a_body_that_is_not_json_is_a_400(client: httpx.Client, task: str, body: bytes) -> None:
    problem(client.post(f"/v1/{task}", content=body, headers={"Content-Type": "application/json"}), 400)


BODIES = {
    "sentiment": {"reviews": ["A wonderful little film."]},
    "mammogram": {"masses": [{"age": 50, "shape": None, "margin": None, "density": None}]},
    "fashion": {"seed": 7, "count": None, "label": None, "truncation": None},
    "digits": {"images": [base64.b64encode(DIGIT.read_bytes()).decode()]},
}
"""By task, a body with optional fields that are null."""


@pytest.mark.parametrize("task", TASKS)
def test_json_may_begin_with_a_byte_order_mark_and_must_be_utf_8(client: httpx.Client, task: str) -> None:
    headers = {"Content-Type": "application/json"}
    text = json.dumps(BODIES[task])
    plain = client.post(f"/v1/{task}", content=text.encode(), headers=headers)
    assert plain.status_code == 200
    assert client.post(f"/v1/{task}", content=text.encode("utf-8-sig"), headers=headers).content == plain.content
    for coding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7"):
        body = text.replace('"', "+ACI-").encode() if coding == "utf-7" else text.encode(coding)
        problem(client.post(f"/v1/{task}", content=body, headers=headers), 400)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("%s {}", 400),
        ("%s\x00", 400),
        ("\ufeff\ufeff%s", 400),
        ("// why\n%s", 400),
        ('{"unknown": "\\ud800"}', 400),
        ('{"unknown": "\x01"}', 400),
        ('{"unknown": ' + "[" * 100_000 + "]" * 100_000 + "}", 400),
        ('{"unknown": ' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}", 400),
        ('{"unknown": ' + "9" * 4000 + "}", 422),
        ('{"unknown": -Infinity}', 422),
        ('{"unknown": 1, "unknown": 1}', 422),
        ("{'unknown': 1}", 400),
        ('{"unknown": 01}', 400),
        ('{"unknown": 1,}', 400),
    ],
)
def test_malformed_or_unusual_json_is_rejected(client: httpx.Client, task: str, text: str, status: int) -> None:
    body = text.replace("%s", json.dumps(BODIES[task])).encode()
    problem(client.post(f"/v1/{task}", content=body, headers={"Content-Type": "application/json"}), status)


def test_the_last_of_duplicate_fields_counts(client: httpx.Client) -> None:
    body = b'{"seed": 1, "count": 2, "seed": 5}'
    answer = client.post("/v1/fashion", content=body, headers={"Content-Type": "application/json"})
    assert answer.headers["x-seed"] == "5"


@pytest.mark.parametrize("count", range(4))
def test_null_means_absent(client: httpx.Client, count: int) -> None:
    for chosen in combinations(["count", "label", "truncation"], count):
        order = {"seed": 7, **dict.fromkeys(chosen)}
        assert client.post("/v1/fashion", json=order).content == client.post("/v1/fashion", json={"seed": 7}).content
    for chosen in combinations(["shape", "margin", "density"], count):
        mass, plain = {"age": 50, **dict.fromkeys(chosen)}, {"age": 50}
        found, expected = (client.post("/v1/mammogram", json={"masses": [each]}).json() for each in (mass, plain))
        assert found == expected


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("body", [[], 3, None, "x", {"unknown": 1}])
def test_invalid_json_fields_are_a_422_with_their_location(client: httpx.Client, task: str, body: object) -> None:
    headers = {"Content-Type": "application/json"}
    content = problem(client.post(f"/v1/{task}", content=json.dumps(body), headers=headers), 422)
    assert content["errors"]


def test_faults_name_item_and_field(client: httpx.Client) -> None:
    content = problem(client.post("/v1/sentiment", json={"reviews": ["fine", 3]}), 422)
    assert [fault["loc"] for fault in content["errors"]] == [["reviews", 1]]  # type: ignore[attr-defined]


def test_a_flood_of_faults_gets_a_short_response(client: httpx.Client) -> None:
    response = client.post("/v1/mammogram", json={"masses": [{"age": "x", "shape": 9, "margin": 9}] * 64})
    assert len(problem(response, 422)["errors"]) <= 64  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [b'{"seed": 5}', iter([b'{"seed"', b": 5}"])], ids=["whole", "chunked"])
def test_an_upgrade_offer_is_declined_and_the_request_is_answered(client: httpx.Client, body: bytes) -> None:
    headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQAAP__"}
    answer = client.post("/v1/fashion", content=body, headers={**headers, "Content-Type": "application/json"})
    assert answer.headers["x-seed"] == "5"
    assert client.get("/livez", headers=headers).status_code == 200


def test_input_in_error_messages_is_truncated(client: httpx.Client) -> None:
    refused = client.post("/v1/mammogram", json={"x" * 1_000_000: 0})
    problem(refused, 422)
    assert len(refused.content) < 10_000
    unknown = client.post("/v1/sentiment", json=REVIEW, params={"version": "9" * 10_000})
    problem(unknown, 404)
    assert len(unknown.content) < 10_000


def test_a_million_faults_are_counted_and_not_listed(client: httpx.Client) -> None:
    body = json.dumps({str(number): 0 for number in range(500_000)})
    content = problem(client.post("/v1/mammogram", content=body, headers={"Content-Type": "application/json"}), 422)
    assert "500,001" in str(content["detail"])


@pytest.mark.parametrize(("extra", "status"), [(0, 422), (1, 413)])
def test_the_body_limit_with_a_declared_length(client: httpx.Client, extra: int, status: int) -> None:
    body = b'{"reviews": ["' + b"x" * (LIMIT + extra - 17) + b'"]}'
    assert len(body) == LIMIT + extra
    problem(client.post("/v1/sentiment", content=body, headers={"Content-Type": "application/json"}), status)


@pytest.mark.parametrize(("extra", "status"), [(0, 422), (1, 413)])
def test_the_body_limit_while_it_streams(client: httpx.Client, extra: int, status: int) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"reviews": ["'
        left = LIMIT + extra - 17
        while left:
            size = min(left, 65536)
            yield b"x" * size
            left -= size
        yield b'"]}'

    problem(client.post("/v1/sentiment", content=chunks(), headers={"Content-Type": "application/json"}), status)


def test_a_declared_length_over_the_limit_is_refused_before_the_body_is_sent(server: str) -> None:
    address = urlsplit(server)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/sentiment HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 999999999999\r\n\r\n"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_request_has_at_most_64_items(client: httpx.Client) -> None:
    assert client.post("/v1/sentiment", json={"reviews": ["good"] * 64}).status_code == 200
    problem(client.post("/v1/sentiment", json={"reviews": ["good"] * 65}), 422)
    problem(client.post("/v1/sentiment", json={"reviews": []}), 422)


def test_a_review_has_a_maximum_length(client: httpx.Client) -> None:
    assert client.post("/v1/sentiment", json={"reviews": ["x" * 20_000]}).status_code == 200
    problem(client.post("/v1/sentiment", json={"reviews": ["x" * 20_001]}), 422)
    problem(client.post("/v1/sentiment", json={"reviews": [""]}), 422)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_nan_and_infinities_are_a_422(client: httpx.Client, number: str) -> None:
    headers = {"Content-Type": "application/json"}
    problem(client.post("/v1/mammogram", content=f'{{"masses": [{{"age": {number}}}]}}', headers=headers), 422)
    problem(client.post("/v1/fashion", content=f'{{"truncation": {number}}}', headers=headers), 422)


@pytest.mark.parametrize("timeout", ["0", "-1", "soon", "nan", "inf"])
def test_an_invalid_timeout_is_a_422(client: httpx.Client, timeout: str) -> None:
    problem(client.post("/v1/sentiment", json=REVIEW, headers={"X-Request-Timeout": timeout}), 422)


def test_a_deadline_that_has_passed_is_a_504(client: httpx.Client) -> None:
    body = {"reviews": [f"{i} a long story about nothing in particular " * 300 for i in range(64)]}
    problem(client.post("/v1/sentiment", json=body, headers={"X-Request-Timeout": "0.001"}), 504)


def test_a_body_that_does_not_arrive_in_time_is_a_504(client: httpx.Client) -> None:
    def slowly() -> Iterator[bytes]:
        yield b"{"
        time.sleep(0.5)
        yield b"}"

    headers = {"X-Request-Timeout": "0.1", "Content-Type": "application/json"}
    problem(client.post("/v1/sentiment", content=slowly(), headers=headers), 504)


def test_a_client_that_hangs_up_halfway_does_not_affect_others(server: str, client: httpx.Client) -> None:
    address = urlsplit(server)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/sentiment HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
    assert client.post("/v1/sentiment", json=REVIEW).status_code == 200


def test_the_api_page_loads_no_external_resources(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "//" not in page.text
    for asset in re.findall(r'(?:src|href)="\./([^"]+)"', page.text):
        assert client.get(f"/{asset}").status_code == 200


def test_the_openapi_document_has_every_route(client: httpx.Client) -> None:
    document = json.loads(client.get("/docs.json").content)
    assert {f"/v1/{task}" for task in TASKS} <= document["paths"].keys()
    assert {"/livez", "/readyz", "/metrics", "/v1/models"} <= document["paths"].keys()
