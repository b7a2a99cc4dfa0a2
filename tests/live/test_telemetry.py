"""Observability of a server: metrics, also when workers die, the log, and traces of requests."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from service.observability.exposition import FLUSH_SECONDS
from tests.live.conftest import clean_environment, serving
from tests.paths import MODELS, ROOT

MASS = {"masses": [{"age": 50}]}
PICTURES = {"name": "pictures", "datatype": "UINT8", "shape": [1, 28, 28], "data": [0] * 784}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@dataclass
class Receiver:
    """An OTLP receiver over HTTP that keeps the spans it receives."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    def of(self, request_id: str) -> dict[str, Span]:
        """Wait for the spans of a request; return them by name."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for root in list(self.spans):
                if attributes(root).get("deepserve.request_id") == request_id:
                    below = [span for span in self.spans if span.parent_span_id == root.span_id]
                    return {span.name: span for span in (root, *below)}
            time.sleep(0.05)
        raise AssertionError(f"no span of {request_id} has come")


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            assert self.headers["content-type"] == "application/x-protobuf"
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            for resource in sent.resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                receiver.services.add(names["service.name"])
                for scope in resource.scope_spans:
                    receiver.spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield receiver
        server.shutdown()
        thread.join()


@dataclass
class Watched:
    """A server that exports traces, and logs every request as JSON."""

    client: httpx.Client
    log: Path
    receiver: Receiver

    def lines(self, request_id: str) -> list[dict[str, Any]]:
        """Wait for the log lines of a request, which are written after the response, and return them."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            lines = [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
            if found := [line for line in lines if line.get("request_id") == request_id]:
                return found
            time.sleep(0.05)
        raise AssertionError(f"the log says nothing of {request_id}")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    shutil.copytree(MODELS / "mammogram" / "1", folder / "models" / "mammogram" / "1")
    shutil.copytree(MODELS / "digits" / "2", folder / "models" / "digits" / "2")
    with receiving() as receiver, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        patch.setenv("OTEL_SERVICE_NAME", "deepserve-tested")
        settings = {"models_dir": str(folder / "models"), "log_format": "json", "log_requests_fraction": "1"}
        with (
            serving(folder / "log", **settings) as url,
            httpx.Client(base_url=url, timeout=30) as client,
        ):
            yield Watched(client, folder / "log", receiver)


def infer(client: httpx.Client, headers: dict[str, str]) -> httpx.Response:
    return client.post("/v2/models/digits/infer", json={"inputs": [PICTURES]}, headers=headers)


def predict(client: httpx.Client, headers: dict[str, str]) -> httpx.Response:
    return client.post("/v1/mammogram", json=MASS, headers=headers)


@pytest.mark.parametrize("ask", [infer, predict])
def test_a_response_has_the_timings_of_its_stages(watched: Watched, ask: Any) -> None:
    started = time.perf_counter()
    timing = ask(watched.client, {}).headers["server-timing"]
    most = 1000 * (time.perf_counter() - started)
    found = {name: float(dur) for name, dur in re.findall(r"(\w+);dur=(\d+\.\d{3})", timing)}
    assert list(found) == ["queue", "run", "total"]
    assert 0 < found["run"] < found["total"] < most
    assert found["queue"] + found["run"] < found["total"]
    assert re.fullmatch(r"total;dur=\d+\.\d{3}", watched.client.get("/v1/nothing").headers["server-timing"])


@pytest.mark.parametrize(
    ("ask", "route", "model", "version"),
    [(infer, "/v2/models/{name}/infer", "digits", "2"), (predict, "/v1/mammogram", "mammogram", "1")],
)
def test_the_trace_of_a_client_is_continued(watched: Watched, ask: Any, route: str, model: str, version: str) -> None:
    name = f"traced-{model}"
    answer = ask(watched.client, {"X-Request-ID": name, "traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert answer.status_code == 200
    spans = watched.receiver.of(name)
    root = spans.pop(f"POST {route}")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, PARENT)
    assert root.kind == Span.SPAN_KIND_SERVER
    facts = attributes(root)
    assert (facts["deepserve.model"], facts["deepserve.version"], facts["deepserve.outcome"]) == (model, version, "ok")
    assert (facts["http.response.status_code"], facts["http.route"]) == (200, route)
    assert list(spans) == ["decode", "queue", "run", "encode"]
    times = [each for span in spans.values() for each in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert times == sorted(times)
    assert root.start_time_unix_nano <= times[0]
    assert times[-1] <= root.end_time_unix_nano <= time.time_ns()
    assert watched.receiver.services == {"deepserve-tested"}
    [line] = watched.lines(name)
    assert line["trace_id"] == TRACE


def test_an_unsampled_trace_is_not_exported(watched: Watched) -> None:
    predict(watched.client, {"X-Request-ID": "unsampled", "traceparent": f"00-{TRACE}-{PARENT}-00"})
    predict(watched.client, {"X-Request-ID": "after-it"})
    assert watched.receiver.of("after-it")
    assert not [span for span in watched.receiver.spans if attributes(span).get("deepserve.request_id") == "unsampled"]


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=abc", "text/plain; version=1.x", "*/*", ""])
def test_metrics_have_a_default_format_for_unknown_media_types(watched: Watched, accept: str) -> None:
    answer = watched.client.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200
    assert "version=abc" not in answer.headers["content-type"]
    assert "deepserve_requests" in answer.text


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8, */*;q=0.1", "application/openmetrics-text"),
        ("application/openmetrics-text;q=0.1, text/plain", "text/plain"),
        ("application/openmetrics-text;q=0, */*", "text/plain"),
        ("text/html", "text/plain"),
    ],
)
def test_the_weights_in_accept_select_the_format_of_the_metrics(watched: Watched, accept: str, media_type: str) -> None:
    answer = watched.client.get("/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == media_type


def test_metrics_are_compressed_if_the_client_accepts_it(watched: Watched) -> None:
    plain = watched.client.get("/metrics", headers={"Accept-Encoding": "gzip;q=0, br"})
    assert "content-encoding" not in plain.headers
    assert plain.headers["vary"] == "Accept"
    for accepted, coding in (("gzip", "gzip"), ("gzip;q=0.2, deflate", "deflate")):
        answer = watched.client.get("/metrics", headers={"Accept-Encoding": accepted})
        assert answer.headers["content-encoding"] == coding
        assert answer.headers["vary"] == "Accept, Accept-Encoding"
        assert "deepserve_requests" in answer.text
        assert answer.num_bytes_downloaded < len(plain.content) / 4


def test_metrics_have_exemplars_of_exported_traces(watched: Watched) -> None:
    predict(watched.client, {"X-Request-ID": "example"})
    [root] = [span for name, span in watched.receiver.of("example").items() if name.startswith("POST")]
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    answer = watched.client.get("/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in parse_openmetrics(answer.text)}
    examples = [sample.exemplar for sample in families["deepserve_request_seconds"].samples if sample.exemplar]
    assert root.trace_id.hex() in {example.labels["trace_id"] for example in examples}


def test_the_log_has_one_line_per_request_without_its_content(watched: Watched) -> None:
    secret = "a-secret-that-is-sent"
    headers = {"X-Request-ID": "logged", "Authorization": f"Bearer {secret}"}
    assert watched.client.post(f"/v1/mammogram?note={secret}", json=MASS, headers=headers).status_code == 200
    assert watched.client.post("/v1/mammogram", json={"masses": [{"shape": secret}]}).status_code == 422
    [line] = watched.lines("logged")
    assert 0 < line.pop("milliseconds") < 5000
    assert line.pop("time").endswith("Z")
    assert re.fullmatch(r"[0-9a-f]{32}", line.pop("trace_id"))
    assert line.pop("process") > 0
    assert line == {
        "level": "INFO",
        "logger": "service.requests",
        "message": "request",
        "request_id": "logged",
        "client_address": "127.0.0.1",
        "method": "POST",
        "route": "/v1/mammogram",
        "model": "mammogram",
        "version": "1",
        "status": 200,
        "outcome": "ok",
    }
    assert secret not in watched.log.read_text()


def test_a_client_cannot_forge_a_log_line(watched: Watched) -> None:
    forged = '","outcome":"failed"} {"level":"ERROR"'
    watched.client.get("/v1/nothing", headers={"X-Request-ID": forged})
    [line] = watched.lines(forged)
    assert (line["level"], line["outcome"], line["status"]) == ("INFO", "invalid", 404)


def test_all_log_lines_are_json_and_not_repeated(watched: Watched) -> None:
    said = Counter(json.loads(line)["message"] for line in watched.log.read_text().splitlines())
    assert said["model mammogram version 1 is ready on CPUExecutionProvider in float32"] == 1
    assert sum(message.startswith("listening on http://127.0.0.1:") for message in said) == 1


def test_promtool_accepts_the_metrics(watched: Watched) -> None:
    predict(watched.client, {})
    text = watched.client.get("/metrics").text
    for stage in ("request", "decode", "queue", "run", "encode"):
        assert f"# TYPE deepserve_{stage}_seconds histogram" in text
    if (promtool := shutil.which("promtool")) is not None:  # `make test-deploy` needs it, this does not
        checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=True)
        assert not checked.stdout + checked.stderr


def test_metrics_report_failed_versions_but_not_unselected_ones(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "digits", tmp_path / "models" / "digits")
    with (tmp_path / "models" / "digits" / "2" / "model.onnx").open("ab") as graph:
        graph.write(b"x")
    policy = {"version_policy": '{"digits": "latest 1"}'}
    with serving(tmp_path / "log", models_dir=str(tmp_path / "models"), **policy) as url:
        text = httpx.get(f"{url}/metrics").text
    assert 'deepserve_model_ready{model="digits",version="2"} 0.0' in text
    assert 'deepserve_model_ready{model="digits",version="1"} 1.0' in text
    assert 'deepserve_model_loads_total{model="digits",outcome="failed"} 1.0' in text
    assert 'deepserve_model_loads_total{model="digits",outcome="ok"} 1.0' in text


def processes(url: str) -> list[psutil.Process]:
    """Return the workers of a server."""
    port = httpx.URL(url).port
    found = (
        each for each in psutil.Process().children(recursive=True) if each.environ().get("DEEPSERVE_PORT") == str(port)
    )
    return [each for each in found if "service.processes.worker" in each.cmdline()]


def test_counters_never_decrease_and_gauges_follow_when_workers_are_killed(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "mammogram" / "1", tmp_path / "models" / "mammogram" / "1")

    def asked() -> float:
        labels = 'model="mammogram",outcome="ok",route="/v1/mammogram",version="1"'
        found = re.search(rf"deepserve_requests_total{{{labels}}} (\S+)", httpx.get(f"{url}/metrics").text)
        return float(found[1]) if found else 0.0

    def ask(times: int) -> None:
        for _ in range(times):  # a connection each, so that both workers get some
            assert httpx.post(f"{url}/v1/mammogram", json=MASS).status_code == 200

    def workers() -> dict[str, float]:
        text = httpx.get(f"{url}/metrics").text
        return dict(re.findall(r'deepserve_worker_resident_bytes{worker="(\d+)"} (\S+)', text))

    with serving(tmp_path / "log", models_dir=str(tmp_path / "models"), workers="2", log_requests_fraction="0") as url:
        ask(20)
        for kills in range(1, 3):
            assert list(workers()) == ["0", "1"]
            time.sleep(2 * FLUSH_SECONDS)  # a killed worker loses what it has not yet written
            victim = processes(url)[-1]
            victim.kill()
            victim.wait(10)
            assert asked() == 20 * kills
            assert len(workers()) < 2
            ask(20)
            time.sleep(2 * FLUSH_SECONDS)
            assert asked() == 20 * (kills + 1)
            end = time.monotonic() + 60
            while len(workers()) < 2 or not httpx.get(f"{url}/readyz").is_success:
                assert time.monotonic() < end
                time.sleep(0.1)


def test_pending_spans_are_exported_before_the_server_exits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "models" / "mammogram", tmp_path / "models" / "mammogram")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with serving(tmp_path / "log", models_dir=str(tmp_path / "models")) as url:
            httpx.post(f"{url}/v1/mammogram", json=MASS, headers={"X-Request-ID": "the last"})
            assert not receiver.spans
        assert receiver.of("the last")


def test_an_unsupported_otlp_protocol_is_rejected() -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    ended = subprocess.run(
        [sys.executable, "-m", "service"],
        cwd=ROOT,
        env={**clean_environment(), "DEEPSERVE_PORT": "38765", **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "OTEL_EXPORTER_OTLP_PROTOCOL: grpc is not supported; http/protobuf is" in ended.stderr
    assert "Traceback" not in ended.stderr
