"""A server with TLS, allowed hosts and origins, trusted proxies, rate limits and a limit of log lines."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from load_tests.processes import free_ports
from tests.certificates import issue
from tests.live.conftest import clean_environment, serving, trusting
from tests.live.openinference.asking import refused
from tests.live.test_contract import problem
from tests.paths import DIGIT, ROOT
from tests.waiting import wait_until

APP, HOST, MAX_LINES, BURST = "https://app.example.org", "api.example.org", 20, 3
STAYS = "the previous TLS certificate stays in use"
MASSES = {"masses": [{"age": 50}]}


@dataclass
class Guarded:
    """The server, its log and the files of its certificate."""

    url: str
    log: Path
    certificate: Path
    key: Path

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 443

    def lines(self, message: str = "", **facts: object) -> list[dict[str, Any]]:
        """Return the log lines with this message and these fields."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if message in line["message"] and facts.items() <= line.items()]

    def wait_for_line(self, message: str = "", **facts: object) -> dict[str, Any]:
        wait_until(lambda: bool(self.lines(message, **facts)))
        return self.lines(message, **facts)[-1]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    certificate, key = issue(folder)
    settings = {
        "tls_certificate_file": str(certificate),
        "tls_key_file": str(key),
        "allowed_hosts": f"{HOST}, *.example.net",
        "cors_origins": APP,
        "trusted_proxies": "127.0.0.0/8",
        "admin_keys": "admin",
        "rate_limit_per_second": "0.01",
        "rate_burst": str(BURST),
        "log_format": "json",
        "log_requests_fraction": "1",
        "log_refusals_per_second": str(MAX_LINES),
    }
    with serving(folder / "log", **settings) as url:
        yield Guarded(url, folder / "log", certificate, key)


@pytest.fixture
def client(guarded: Guarded) -> Iterator[httpx.Client]:
    """Return a client that sends an allowed host."""
    headers = {"Host": HOST, "Origin": APP}
    with httpx.Client(
        base_url=guarded.url, verify=trusting(guarded.certificate), headers=headers, timeout=30
    ) as client:
        yield client


def asked(client: httpx.Client, method: str, path: str, *, origin: str = APP, **headers: str) -> httpx.Response:
    """Send a preflight request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.options(path, headers={"Origin": origin, "Access-Control-Request-Method": method, **named})


# TLS


def test_clients_that_verify_the_certificate_can_reuse_the_connection(client: httpx.Client) -> None:
    headers = {"Content-Type": "image/jpeg", "X-Forwarded-For": "192.0.2.10"}
    for _ in range(2):
        answer = client.post("/v1/digits", content=DIGIT.read_bytes(), headers=headers)
        assert answer.json()["predictions"][0]["digit"] == 7
        stream = answer.extensions["network_stream"]
        assert stream.get_extra_info("ssl_object").version() == "TLSv1.3"
    problem(client.post("/v1/sentiment", json={"reviews": ["x" * 5_000_000]}), 422)


def handshake(guarded: Guarded, version: ssl.TLSVersion) -> str | None:
    context = trusting(guarded.certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    plain = socket.create_connection(("127.0.0.1", guarded.port), timeout=10)
    with context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=False) as connection:
        connection.do_handshake()
        return connection.version()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_1_2_is_the_minimum_version(guarded: Guarded) -> None:
    assert handshake(guarded, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    assert handshake(guarded, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    for old in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        with pytest.raises(ssl.SSLError):
            handshake(guarded, old)


def test_clients_without_tls_get_no_response_and_no_log_line(guarded: Guarded, client: httpx.Client) -> None:
    def others() -> list[dict[str, Any]]:
        return [line for line in guarded.lines() if line["logger"] != "service.requests"]

    before = others()
    for said in (b"GET /livez HTTP/1.1\r\nHost: api.example.org\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 999, b""):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as connection:
                connection.sendall(said)
                connection.shutdown(socket.SHUT_WR)
                with suppress(ConnectionResetError):
                    while received := connection.recv(65536):
                        assert not received.startswith(b"HTTP")
    assert client.get("/livez", headers={"X-Request-ID": "after the garbage"}).status_code == 200
    guarded.wait_for_line("request", request_id="after the garbage")
    assert others() == before


def test_the_log_says_https(guarded: Guarded) -> None:
    assert guarded.lines(f"listening on https://127.0.0.1:{guarded.port}")


def test_the_health_check_of_the_image_works_with_tls(guarded: Guarded) -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    [check] = re.findall(r"^HEALTHCHECK .*?CMD (.*)$", dockerfile, re.MULTILINE)
    environment = {
        **clean_environment(),
        "DEEPSERVE_PORT": str(guarded.port),
        "DEEPSERVE_TLS_CERTIFICATE_FILE": str(guarded.certificate),
    }
    command = [sys.executable, *json.loads(check)[1:]]
    subprocess.run(command, env=environment, check=True, timeout=30)
    del environment["DEEPSERVE_TLS_CERTIFICATE_FILE"]
    assert subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, timeout=30).returncode == 1


def served_certificate(guarded: Guarded) -> str:
    return ssl.get_server_certificate(("127.0.0.1", guarded.port), timeout=10)


def certificates_until_logged(guarded: Guarded, message: str) -> set[str]:
    """Open connections until the log has the error; return the certificates that the server presented."""
    presented = set()

    def is_logged() -> bool:
        presented.add(served_certificate(guarded))  # the server checks its files in handshakes
        return bool(guarded.lines(message, level="ERROR"))

    wait_until(is_logged)
    return presented


def test_a_replaced_certificate_is_used_when_its_key_matches(guarded: Guarded, tmp_path: Path) -> None:
    first = guarded.certificate.read_text()
    second, key = issue(tmp_path, "second")
    try:
        shutil.copy(second, guarded.certificate)  # the key is still that of the first one
        assert certificates_until_logged(guarded, f"{STAYS}: DEEPSERVE_TLS_KEY_FILE") == {first}
        os.replace(key, guarded.key)
        wait_until(lambda: served_certificate(guarded) == second.read_text())
        with httpx.Client(verify=trusting(second)) as client:
            assert client.get(f"{guarded.url}/livez").status_code == 200
        guarded.certificate.unlink()
        assert certificates_until_logged(guarded, f"{STAYS}: DEEPSERVE_TLS_CERTIFICATE_FILE") == {second.read_text()}
    finally:
        shutil.copy(second, guarded.certificate)
    assert served_certificate(guarded) == second.read_text()


# Hosts


@pytest.mark.parametrize(
    ("host", "status", "of_a_probe"),
    [
        (HOST, 200, 200),
        ("API.Example.ORG.:8443", 200, 200),
        ("a.b.example.net:3000", 200, 200),
        ("10.244.0.7:3000", 421, 200),
        ("[fd00::7]:3000", 421, 200),
        ("evil.example", 421, 421),
        ("example.net", 421, 421),
        ("localhost", 421, 421),
    ],
)
def test_other_hosts_get_a_421_and_probes_may_use_the_address(
    client: httpx.Client, host: str, status: int, of_a_probe: int
) -> None:
    for path in ("/v1/models", "/v2", "/", "/docs.json", "/schema.json", "/nope"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == (404 if path == "/nope" and status == 200 else status), path
    for path in ("/livez", "/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path, headers={"Host": host}).status_code == of_a_probe, path


def test_the_host_is_checked_before_anything_else(client: httpx.Client) -> None:
    evil = {"Host": "evil.example:3000", "X-Forwarded-For": "192.0.2.20"}
    for _ in range(2 * BURST):
        problem(client.post("/v1/mammogram", json=MASSES, headers=evil), 421)  # which uses up none of the limit
    assert client.post("/v1/mammogram", json=MASSES, headers={"X-Forwarded-For": "192.0.2.20"}).status_code == 200
    assert "host" in refused(client.post("/v2/models/digits/infer", content=b"{", headers=evil), 421)
    assert asked(client, "POST", "/v1/mammogram", **evil).status_code == 421


# Origins


def allows(answer: httpx.Response, origin: str = APP) -> bool:
    """Return whether a browser lets a page of the origin read the response, and caches keep it for that origin only."""
    assert "origin" in answer.headers["vary"].lower()
    assert "access-control-allow-credentials" not in answer.headers
    return answer.headers.get("access-control-allow-origin") == origin


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/digits", "POST"),
        ("/v1/models", "GET, HEAD"),
        ("/v1/models/digits/versions/2", "GET, HEAD"),
        ("/v2/models/digits/infer", "POST"),
        ("/v2/repository/index", "POST"),  # which takes an admin key: a preflight never has one
        ("/schema.json", "GET, HEAD"),
        ("/nope", "GET, HEAD, POST"),
    ],
)
def test_a_preflight_response_lists_the_methods_of_the_route(client: httpx.Client, path: str, methods: str) -> None:
    answer = asked(client, "POST", path, Access_Control_Request_Headers="authorization,content-type,x-request-id")
    assert (answer.status_code, answer.content) == (200, b"")
    assert allows(answer)
    assert answer.headers["access-control-allow-methods"] == methods
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert {"authorization", "content-type", "x-request-id", "inference-header-content-length"} <= {*allowed}
    assert int(answer.headers["access-control-max-age"]) > 0
    assert answer.headers["x-request-id"]


def test_a_preflight_of_another_origin_is_rejected(client: httpx.Client) -> None:
    for origin in ("https://evil.example", "null"):
        answer = asked(client, "POST", "/v1/digits", origin=origin)
        problem(answer, 403)
        assert not allows(answer, origin)
        answer = client.get("/v1/models", headers={"Origin": origin})
        assert answer.status_code == 200
        assert not allows(answer, origin)


def test_errors_and_pages_have_the_cors_headers_too(client: httpx.Client) -> None:
    masses, mine = "/v1/mammogram", {"X-Forwarded-For": "192.0.2.30"}
    answers = {
        404: client.get("/nope"),
        405: client.delete(masses),
        415: client.post(masses, content=b"x", headers={"Content-Type": "text/plain", **mine}),
        422: client.post(masses, json={"masses": [{"age": -1}]}, headers=mine),
        401: client.post("/v2/repository/models/digits/load"),
        421: client.get("/v1/models", headers={"Host": "evil.example"}),
        200: client.get("/static_content/swagger-ui.css"),
    }
    while (answer := client.post(masses, json=MASSES, headers=mine)).status_code == 200:
        pass
    answers[429] = answer
    assert {status: answer.status_code for status, answer in answers.items()} == {status: status for status in answers}
    assert [status for status, answer in answers.items() if not allows(answer)] == []
    assert "Retry-After" in answers[429].headers["access-control-expose-headers"]


def test_a_response_that_depends_on_origin_and_coding_has_both_in_vary(client: httpx.Client) -> None:
    tensor = {"name": "masses", "datatype": "FP32", "shape": [64, 4], "data": [50.0, 4.0, 5.0, 3.0] * 64}
    headers = {"Accept-Encoding": "gzip", "X-Forwarded-For": "192.0.2.31"}
    answer = client.post("/v2/models/mammogram/infer", json={"inputs": [tensor]}, headers=headers)
    assert answer.headers["content-encoding"] == "gzip"
    assert {each.strip() for each in answer.headers["vary"].split(",")} == {"Accept-Encoding", "Origin"}
    assert allows(answer)


# Clients


def test_clients_behind_a_trusted_proxy_have_separate_limits(client: httpx.Client) -> None:
    def statuses(forwarded: str) -> list[int]:
        headers = {"X-Forwarded-For": forwarded}
        return [client.post("/v1/mammogram", json=MASSES, headers=headers).status_code for _ in range(BURST + 1)]

    spent = [200] * BURST + [429]
    assert statuses("198.51.100.1, 192.0.2.41") == spent
    assert statuses("198.51.100.1, 192.0.2.42, 127.0.0.2") == spent
    assert statuses("198.51.100.9, 192.0.2.41:5000") == [429] * (BURST + 1)


def test_the_log_has_the_address_of_the_client(guarded: Guarded, client: httpx.Client) -> None:
    for request_id, forwarded, expected in (
        ("proxied", "198.51.100.1, 192.0.2.50", "192.0.2.50"),
        ("mapped", "[::ffff:192.0.2.51]:443", "192.0.2.51"),
        ("garbage", "192.0.2.52, <script>", "127.0.0.1"),
    ):
        client.get("/livez", headers={"X-Request-ID": request_id, "X-Forwarded-For": forwarded})
        assert guarded.wait_for_line("request", request_id=request_id)["client_address"] == expected


# The log


def left_out(client: httpx.Client) -> float:
    found = re.search(r"^deepserve_log_lines_left_out_total (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_a_flood_of_refused_requests_does_not_fill_the_disk(guarded: Guarded, client: httpx.Client) -> None:
    def summarised() -> int:
        return sum(int(line["message"].split()[0]) for line in guarded.lines("were left out"))

    def written() -> int:
        return len(guarded.lines("request", route="other"))

    wait_until(lambda: left_out(client) == summarised())  # the summaries of other tests are complete
    summarised_before, written_before = summarised(), written()
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda _: client.get("/nope").status_code, range(400)))
    seconds = int(time.monotonic() - began) + 2
    assert statuses == [404] * 400
    wait_until(lambda: written() - written_before + summarised() - summarised_before == 400)
    wait_until(lambda: left_out(client) == summarised())
    assert MAX_LINES <= written() - written_before <= seconds * MAX_LINES


def test_all_rejected_requests_with_a_valid_key_are_logged(guarded: Guarded, client: httpx.Client) -> None:
    name = {"Authorization": "Bearer admin", "X-Request-ID": "with a key"}
    for _ in range(3 * MAX_LINES):
        assert client.post("/v2/repository/models/nope/load", headers=name).status_code == 404
    wait_until(lambda: len(guarded.lines("request", request_id="with a key")) == 3 * MAX_LINES)


# The start


def test_a_key_that_does_not_match_stops_the_start_and_doctor_reports_it(tmp_path: Path) -> None:
    certificate, _ = issue(tmp_path)
    _, other = issue(tmp_path, "other")
    [port] = free_ports(1)
    environment = {
        **clean_environment(),
        "DEEPSERVE_PORT": str(port),
        "DEEPSERVE_TLS_CERTIFICATE_FILE": str(certificate),
        "DEEPSERVE_TLS_KEY_FILE": str(other),
    }
    fault = f"DEEPSERVE_TLS_KEY_FILE: {other} is not the key of the certificate {certificate}"

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "service", *command]
        return subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    started = run("serve")
    assert (started.returncode, started.stderr) == (1, f"deepserve: {fault}\n")
    examined = run("doctor")
    assert examined.returncode == 1
    assert re.search(f"FAIL  TLS +{re.escape(fault)}\n", examined.stdout)
