"""The image is built, is small, holds nothing that it should not, and serves as it is told to run in production.

Where no image can be built, the last test still takes the steps of its Dockerfile, in a folder.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from load_tests.processes import free_ports
from tests.deploy.conftest import (
    assert_answers,
    constraints,
    container,
    normal,
    only,
    render,
    said,
    unbuildable,
    wait_until_ready,
)
from tests.paths import MODELS, ROOT

pytestmark = pytest.mark.deploy

TAG = "localhost/deepserve:test"
MAX_BYTES = 400e6
HARDENED = ("--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges", "--memory=1g")


@pytest.fixture(scope="module")
def image(podman: str) -> str:
    """The image that `make image` builds, with BUILD_OPTIONS of the environment."""
    said("make", "image", f"BUILDER={podman}", f"IMAGE={TAG}")
    return TAG


@pytest.fixture(scope="module")
def facts(podman: str, image: str) -> dict[str, Any]:
    [inspected] = json.loads(said(podman, "image", "inspect", image))
    return dict(inspected)


@pytest.fixture(scope="module")
def running(podman: str, image: str) -> Iterator[tuple[str, str]]:
    """A container with the least rights that it can have: its id and its address."""
    [port] = free_ports(1)
    options = ("--network=host", "--no-healthcheck", f"--env=DEEPSERVE_PORT={port}", *HARDENED)
    made = said(podman, "run", "--detach", *options, image)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, 60, lambda: said(podman, "logs", made))
        yield made, url
    finally:
        said(podman, "rm", "--force", made)


def test_it_answers_with_the_least_rights(running: tuple[str, str]) -> None:
    assert_answers(running[1])


def test_it_takes_no_more_memory_than_its_pod_asks_for(podman: str, running: tuple[str, str]) -> None:
    supervisor = psutil.Process(int(said(podman, "container", "inspect", "--format", "{{.State.Pid}}", running[0])))
    processes = [supervisor, *supervisor.children(recursive=True)]
    taken = sum(process.memory_full_info().pss for process in processes)
    asked = container(only(render("cpu"), "Deployment"))["resources"]["requests"]["memory"]
    assert 1e8 < taken < float(asked.removesuffix("Mi")) * 2**20


def test_it_is_small(facts: dict[str, Any]) -> None:
    assert facts["Size"] < MAX_BYTES


def test_it_is_nobody_in_particular_and_tells_its_port(facts: dict[str, Any]) -> None:
    assert facts["Config"]["User"] == "10001:10001"
    assert list(facts["Config"]["ExposedPorts"]) == ["3000/tcp"]


def test_its_health_check_tells_health(podman: str, facts: dict[str, Any], running: tuple[str, str]) -> None:
    kind, *command = facts["Healthcheck"]["Test"]
    assert kind == "CMD"
    said(podman, "exec", running[0], *command)
    elsewhere = ["podman", "exec", "--env=DEEPSERVE_PORT=1", running[0], *command]
    assert subprocess.run(elsewhere, capture_output=True, check=False).returncode != 0


def test_it_holds_neither_compilers_nor_package_managers_nor_torch(podman: str, running: tuple[str, str]) -> None:
    look = (
        "import importlib.util, shutil; print("
        "[name for name in ('cc', 'gcc', 'ld', 'as', 'perl', 'apt-get', 'pip', 'uv', 'git') if shutil.which(name)],"
        "[name for name in ('torch', 'pip', 'setuptools', 'training', 'tests') if importlib.util.find_spec(name)])"
    )
    assert said(podman, "exec", running[0], "python", "-c", look) == "[] []"


def test_it_holds_what_was_committed_and_no_more(podman: str, running: tuple[str, str]) -> None:
    tracked = said("git", "ls-files", "service", "models").splitlines()
    find = ("find", "service", "models", "-type", "f", "-not", "-name", "*.pyc")
    assert sorted(said(podman, "exec", running[0], *find).splitlines()) == sorted(tracked)
    assert said(podman, "exec", running[0], "ls") == "models\nservice\nvenv"


def test_it_serves_models_that_are_mounted(podman: str, image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    shutil.copytree(MODELS / "mammogram", tmp_path / "mammogram")
    [port] = free_ports(1)
    settings = (f"--env=DEEPSERVE_PORT={port}", "--env=DEEPSERVE_MODELS_DIR=/models", f"--volume={tmp_path}:/models:ro")
    made = said(podman, "run", "--detach", "--network=host", "--no-healthcheck", *HARDENED, *settings, image)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", 60, lambda: said(podman, "logs", made))
        models = httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["models"]
        assert [model["name"] for model in models] == ["mammogram"]
    finally:
        said(podman, "rm", "--force", made)


def test_its_bill_of_materials_names_the_versions_of_the_constraints(podman: str, tmp_path: Path) -> None:
    said("make", "sbom", f"BUILDER={podman}", f"SBOM={tmp_path}")
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    listed = {normal(part["name"]): part["version"] for part in bill["components"]}
    assert listed.items() <= constraints().items()
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {normal(re.split("[=<>]", each)[0]) for each in needed} <= listed.keys()


def test_the_deployment_runs_and_passes_its_probes_and_drains(podman: str, image: str, tmp_path: Path) -> None:
    """`podman kube play` runs the pod as Kubernetes would, but for the probes: those are called here."""
    [port] = free_ports(1)
    manifests = json.loads(json.dumps(render("cpu")))
    deployment, config = only(manifests, "Deployment"), only(manifests, "ConfigMap")
    main = deployment["spec"]["template"]["spec"]["containers"][0]
    main["image"] = image
    del main["ports"]  # the network is this machine's, so that no port is to be opened
    config["data"] |= {"DEEPSERVE_PORT": str(port), "DEEPSERVE_DRAIN_SECONDS": "3"}
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump_all([config, deployment]))
    pod = f"{deployment['metadata']['name']}-pod-0"
    name = f"{pod}-{main['name']}"
    said(podman, "kube", "play", "--network=host", tmp_path / "pod.yaml")
    try:
        probes = {kind: container(deployment)[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}
        for probe in probes.values():
            deadline = time.monotonic() + probe["failureThreshold"] * probe["periodSeconds"]
            while not passes(probe, port):
                assert time.monotonic() < deadline, said(podman, "logs", name)
                time.sleep(probe["periodSeconds"])
        assert_answers(f"http://127.0.0.1:{port}")
        [inspected] = json.loads(said(podman, "container", "inspect", name))
        assert inspected["HostConfig"]["ReadonlyRootfs"] is True
        assert inspected["EffectiveCaps"] in ([], None)
        assert inspected["HostConfig"]["Memory"] == 2**30
        stopping = subprocess.Popen([podman, "pod", "stop", "--time=60", pod], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 3
        while passes(probes["readiness"], port):
            assert time.monotonic() < deadline, "it is still ready"
        assert passes(probes["liveness"], port)
        assert_answers(f"http://127.0.0.1:{port}")
        assert stopping.wait(60) == 0
    finally:
        said(podman, "kube", "down", tmp_path / "pod.yaml")


def passes(probe: dict[str, Any], port: int) -> bool:
    try:
        return httpx.get(
            f"http://127.0.0.1:{port}{probe['httpGet']['path']}", timeout=probe["timeoutSeconds"]
        ).is_success
    except httpx.TransportError:
        return False


def test_its_steps_make_a_folder_that_serves(tmp_path: Path) -> None:
    if unbuildable() is None:
        pytest.skip("the image itself is built here")
    venv = tmp_path / "venv"
    said(sys.executable, "-m", "venv", venv)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
    said(venv / "bin" / "pip", "install", "--quiet", "--no-compile", "-c", "constraints.txt", *needed)
    said(sys.executable, "deploy/trim.py", *venv.glob("lib/python*/site-packages"))
    for part in ("service", "models"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    [port] = free_ports(1)
    environment = {"PATH": os.defpath, "HOME": "/tmp", "DEEPSERVE_PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1"}
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [venv / "bin" / "python", "-m", "service"], cwd=tmp_path, env=environment, stdout=log, stderr=log
        )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", 60, (tmp_path / "log").read_text)
        assert_answers(f"http://127.0.0.1:{port}")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
