"""The rules, the alerts and the dashboard for the metrics: alerts fire as expected, and no panel is empty."""

import json
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image

from load_tests.processes import free_ports
from service.observability import exposition
from service.observability.series import Counter, Gauge, Histogram
from tests.deploy.conftest import program, said
from tests.live.conftest import serving
from tests.paths import ROOT

MONITORING = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules" / "deepserve.yaml").read_text())
ALERTS = [rule["alert"] for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
RECORDED = [rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule]
DASHBOARD = json.loads((MONITORING / "dashboards" / "deepserve.json").read_text())
QUERIES = {
    f"{panel['title']}: {target['legendFormat']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
}
OF_GPUS = ("GPU memory in use", "GPU memory of workers")
"""Panels that are empty on a machine without GPU."""


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    tool = program("promtool", install="apt-get install prometheus")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)


def test_the_dashboard_is_generated_by_its_program() -> None:
    made = runpy.run_path(str(MONITORING / "dashboard.py"))
    assert made["dashboard"]() == DASHBOARD


def test_rules_and_panels_query_existing_metrics() -> None:
    rules = [rule["expr"] for group in RULES["groups"] for rule in group["rules"]]
    suffixes = {Counter: ("_total",), Gauge: ("",), Histogram: ("_bucket", "_sum", "_count")}
    families = exposition.FAMILIES.values()
    there = {f"{each.name}{end}" for each in families if each.exposed for end in suffixes[type(each)]} | set(RECORDED)
    asked = {word.partition("{")[0] for text in (*rules, *QUERIES.values()) for word in _words(text)}
    assert {word for word in asked if word.startswith("deepserve_")} <= there


def _words(text: str) -> list[str]:
    for mark in "()[]/":
        text = text.replace(mark, " ")
    return text.split()


@pytest.mark.deploy
def test_rules_are_valid_and_alerts_fire_as_expected() -> None:
    assert promtool("check", "rules", MONITORING / "rules" / "deepserve.yaml").returncode == 0
    tested = promtool("test", "rules", MONITORING / "tests" / "deepserve.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_tested() -> None:
    tests = (MONITORING / "tests" / "deepserve.yaml").read_text()
    assert [alert for alert in ALERTS if f'alertname="{alert}"' not in tests] == []


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A Prometheus that scrapes a server with a few requests, some of them cached, shadowed or refused."""
    folder = tmp_path_factory.mktemp("prometheus")
    binary = program("prometheus", install="apt-get install prometheus")
    settings = {
        "cache_bytes": '{"mammogram": 1000000}',
        "shadow": '{"digits": {"version": "1", "share": 1}}',
        "workers": "2",
    }
    with serving(folder / "server.log", **settings) as server:
        [port] = free_ports(1)
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(MONITORING / "rules" / "*.yaml")],
            "scrape_configs": [
                {"job_name": "deepserve", "static_configs": [{"targets": [server.removeprefix("http://")]}]}
            ],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [
                    binary,
                    f"--config.file={folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                    "--enable-feature=exemplar-storage",
                ],
                stdout=log,
                stderr=log,
            )
        ended = threading.Event()
        load = threading.Thread(target=ask, args=(server, ended))
        load.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                time.sleep(25)  # two evaluations of a rate over some scrapes
                yield client
        finally:
            ended.set()
            load.join()
            process.terminate()
            process.wait(20)


def ask(server: str, ended: threading.Event) -> None:
    picture = {"name": "pictures", "datatype": "UINT8", "shape": [32, 28, 28], "data": [0] * 32 * 784}
    with httpx.Client(base_url=server, timeout=30) as client:
        while not ended.wait(0.05):
            client.post("/v1/mammogram", json={"masses": [{"age": 50}]})
            client.post("/v1/mammogram", json={"masses": [{"age": -1}]})
            client.post("/v2/models/digits/infer", json={"inputs": [picture]})


@pytest.mark.deploy
@pytest.mark.parametrize("title", [title for title in QUERIES if not title.startswith(OF_GPUS)])
def test_no_panel_is_empty(prometheus: httpx.Client, title: str) -> None:
    query = QUERIES[title].replace("$__rate_interval", "10s").replace("$job", ".*").replace("$model", ".*")
    found = result(prometheus, query)
    assert found
    assert any(float(each["value"][1]) >= 0 for each in found), found


@pytest.mark.deploy
def test_the_dashboard_is_drawn_without_grafana(prometheus: httpx.Client, tmp_path: Path) -> None:
    drawn = tmp_path / "dashboard.png"
    said(sys.executable, MONITORING / "picture.py", str(prometheus.base_url), "--minutes=0.3", "--out", drawn)
    with Image.open(drawn) as picture:
        assert picture.width > 1000 < picture.height
        assert len(picture.getcolors()) > 16


@pytest.mark.deploy
def test_prometheus_scrapes_without_errors_and_no_alert_fires(prometheus: httpx.Client) -> None:
    [target] = prometheus.get("/api/v1/targets").json()["data"]["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert not result(prometheus, 'ALERTS{alertstate="firing"}')
    groups = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def result(client: httpx.Client, query: str) -> Any:
    answer = client.get("/api/v1/query", params={"query": query})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]["result"]
