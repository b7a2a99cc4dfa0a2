"""The Kubernetes manifests fit the service: its port, its routes, its settings, its drain, what it needs to run."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.observability import metrics
from service.settings import PREFIX, Settings
from tests.deploy.conftest import OVERLAYS, Manifest, build, container, only, render
from tests.paths import ROOT

LONGEST_START = 60.0
"""Seconds from the start of a container on a core of its own to its first answer, with a lot to spare: 6 measured."""
LOAD_BALANCER = 10.0
"""Seconds that kube-proxy and ingress controllers may take to leave out a pod that is told to stop."""
WORKER_MEMORY = 2**28
"""Bytes that a server with one worker takes with all models: 243 MB measured, in a container, after some requests."""
COMPONENT = "components/tls"
UNITS = {"Mi": 2**20, "Gi": 2**30}


def size(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(\D+)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * UNITS[unit]


def pod(deployment: Manifest) -> Any:
    return deployment["spec"]["template"]["spec"]


def variables(manifests: tuple[Manifest, ...]) -> dict[str, str]:
    """The settings that the pods get by their ConfigMap."""
    deployment, config = only(manifests, "Deployment"), only(manifests, "ConfigMap")
    [source] = container(deployment)["envFrom"]
    assert source["configMapRef"]["name"] == config["metadata"]["name"]
    return dict(config["data"])


def test_every_variable_is_a_setting_and_valid(
    manifests: tuple[Manifest, ...], deployment: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = variables(manifests)
    names = {*given, *(entry["name"] for entry in container(deployment)["env"])}
    assert names <= {f"{PREFIX}{field}".upper() for field in Settings.model_fields}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    Settings()


def test_probes_monitor_and_service_find_the_port_and_the_routes(deployment: Manifest) -> None:
    [port] = container(deployment)["ports"]
    assert port == {"name": "http", "containerPort": Settings.model_fields["port"].default}
    probes = {name: container(deployment)[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert probes == {
        "startup": {"path": "/livez", "port": "http"},
        "liveness": {"path": "/livez", "port": "http"},
        "readiness": {"path": "/readyz", "port": "http"},
    }
    base = render("cpu")
    assert only(base, "Service")["spec"]["ports"] == [{"name": "http", "port": 80, "targetPort": "http"}]
    [endpoint] = only(base, "ServiceMonitor")["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")


def test_a_pod_is_given_the_time_to_drain_and_to_answer(manifests: tuple[Manifest, ...], deployment: Manifest) -> None:
    settings = variables(manifests)
    drain, request = (float(settings[f"{PREFIX}{name}"]) for name in ("DRAIN_SECONDS", "REQUEST_TIMEOUT_SECONDS"))
    probe = container(deployment)["readinessProbe"]
    noticed = probe["failureThreshold"] * (probe["periodSeconds"] + probe["timeoutSeconds"])
    assert drain >= max(noticed, LOAD_BALANCER)
    hook = container(deployment).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod(deployment)["terminationGracePeriodSeconds"] > hook + drain + request


def test_a_slow_start_is_waited_for_and_a_slow_answer_is_no_death(deployment: Manifest) -> None:
    startup, liveness = container(deployment)["startupProbe"], container(deployment)["livenessProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= LONGEST_START
    assert liveness["failureThreshold"] * liveness["periodSeconds"] >= 30
    assert deployment["spec"]["progressDeadlineSeconds"] >= startup["failureThreshold"] * startup["periodSeconds"]


def test_memory_and_cpu_fit_the_workers(manifests: tuple[Manifest, ...], deployment: Manifest) -> None:
    settings, resources = variables(manifests), container(deployment)["resources"]
    workers = int(settings[f"{PREFIX}WORKERS"])
    assert size(resources["requests"]["memory"]) >= workers * WORKER_MEMORY
    assert size(resources["limits"]["memory"]) >= 2 * workers * WORKER_MEMORY
    assert int(resources["requests"]["cpu"]) >= workers * int(settings[f"{PREFIX}THREADS"])


def test_pods_are_as_restricted_as_can_be(deployment: Manifest) -> None:
    context = pod(deployment)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in (ROOT / "deploy" / "Dockerfile").read_text()
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(deployment)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(deployment)["automountServiceAccountToken"] is False


def test_a_service_called_deepserve_does_not_become_a_setting(deployment: Manifest) -> None:
    """Kubernetes would put its address into DEEPSERVE_PORT."""
    assert pod(deployment)["enableServiceLinks"] is False


def test_replicas_are_left_to_the_scaler(overlay: str, manifests: tuple[Manifest, ...], deployment: Manifest) -> None:
    scalers = [m for m in manifests if m["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")]
    assert len(scalers) == (overlay != "canary")
    assert ("replicas" in deployment["spec"]) == (not scalers)
    for scaler in scalers:
        assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_the_queue_that_keda_asks_for_is_a_metric_of_the_service(overlay: str) -> None:
    if overlay not in ("cpu", "gpu"):
        return
    manifests = render(overlay)
    scaled = only(manifests, "ScaledObject")
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    assert f"{metrics.QUEUE_ROWS.name}{{" in query
    namespace, service = re.search(r'namespace="(\w+)", service="(\w+)"', query).groups()  # type: ignore[union-attr]
    assert (namespace, service) == (scaled["metadata"]["namespace"], only(manifests, "Service")["metadata"]["name"])


def test_every_selector_finds_the_pods_and_no_deployment_takes_those_of_the_canary() -> None:
    stable, canary = (only(render(overlay), "Deployment") for overlay in ("cpu", "canary"))

    def labels(deployment: Manifest) -> set[tuple[str, str]]:
        return set(deployment["spec"]["template"]["metadata"]["labels"].items())

    def selects(selector: dict[str, str], deployment: Manifest) -> bool:
        return set(selector.items()) <= labels(deployment)

    own = [deployment["spec"]["selector"]["matchLabels"] for deployment in (stable, canary)]
    assert [[selects(selector, each) for each in (stable, canary)] for selector in own] == [
        [True, False],
        [False, True],
    ]
    base = render("cpu")
    shared = [
        only(base, "Service")["spec"]["selector"],
        only(base, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        *(m["spec"]["podSelector"].get("matchLabels", {}) for m in base if m["kind"] == "NetworkPolicy"),
    ]
    assert len(shared) == 4
    assert all(selects(selector, each) for selector in shared for each in (stable, canary))
    monitored = only(base, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= only(base, "Service")["metadata"]["labels"].items()


def test_nothing_gets_in_or_out_but_requests(overlay: str) -> None:
    if overlay == "canary":
        return
    closed, opened = sorted(
        (m["spec"] for m in render(overlay) if m["kind"] == "NetworkPolicy"), key=lambda spec: "ingress" in spec
    )
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert [rule["ports"] for rule in opened["ingress"]] == [[{"port": "http"}]]
    assert "egress" not in opened


def test_tls_is_one_component_more(overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if overlay == "canary":  # whose names have a suffix: it would be patched where it is
        return
    kubernetes = ROOT / "deploy" / "kubernetes"
    base, component = (os.path.relpath(kubernetes / each, tmp_path) for each in (f"overlays/{overlay}", COMPONENT))
    kustomization = {"resources": [base], "components": [component]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    manifests = build(tmp_path)
    deployment = only(manifests, "Deployment")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container(deployment)[probe]["httpGet"]["scheme"] == "HTTPS"
    settings = variables(manifests)
    [mount] = (each for each in container(deployment)["volumeMounts"] if each["name"] == "tls")
    files = {settings[f"{PREFIX}TLS_{each}_FILE"] for each in ("CERTIFICATE", "KEY")}
    assert files == {f"{mount['mountPath']}/{name}" for name in ("tls.crt", "tls.key")}, "as in such a Secret"
    [volume] = (each for each in pod(deployment)["volumes"] if each["name"] == "tls")
    assert only(manifests, "Service")["spec"]["ports"] == [{"name": "http", "port": 443, "targetPort": "http"}]
    for monitor in (manifest for manifest in manifests if manifest["kind"] == "ServiceMonitor"):
        [endpoint] = monitor["spec"]["endpoints"]
        assert endpoint["scheme"] == "https"
        assert endpoint["tlsConfig"]["ca"]["secret"]["name"] == volume["secret"]["secretName"]
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    Settings()


def test_what_is_deployed_is_this_release() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    images = {overlay: container(only(render(overlay), "Deployment"))["image"] for overlay in OVERLAYS}
    assert images["cpu"] == images["cpu-hpa"] == f"deepserve:{version[1]}"
    assert images["gpu"] == f"deepserve:{version[1]}-cuda"
    assert images["canary"] != images["cpu"]
