"""What deploy/ makes of the service, and the programs that judge it.

`make test` holds the manifests against the code; `make test-deploy` runs everything: marked `deploy`, because it builds
images and restarts servers under load, which takes minutes and programs that not every machine has.
"""

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.paths import DIGIT, ROOT

OVERLAYS = sorted(path.parent.name for path in ROOT.glob("deploy/kubernetes/overlays/*/kustomization.yaml"))
BASE = re.search(r"^ARG PYTHON=(\S+)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)[1]  # type: ignore[index]
Manifest = dict[str, Any]


def program(*names: str, install: str) -> str:
    """The first of these programs that is installed; without any the test is skipped, and says what to install."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"{' or '.join(names)} is needed: {install}")


@cache
def render(overlay: str) -> tuple[Manifest, ...]:
    """The manifests of an overlay."""
    return build(ROOT / "deploy" / "kubernetes" / "overlays" / overlay)


def build(folder: Path) -> tuple[Manifest, ...]:
    """The manifests that a kustomization comes to."""
    kustomize = program("kustomize", "kubectl", install="https://kubectl.docs.kubernetes.io/installation")
    command = [kustomize, "kustomize" if kustomize.endswith("kubectl") else "build", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return tuple(yaml.safe_load_all(done.stdout))


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def manifests(overlay: str) -> tuple[Manifest, ...]:
    return render(overlay)


@pytest.fixture
def deployment(manifests: tuple[Manifest, ...]) -> Manifest:
    return only(manifests, "Deployment")


def only(manifests: tuple[Manifest, ...], kind: str) -> Manifest:
    [found] = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def container(deployment: Manifest) -> Manifest:
    [found] = deployment["spec"]["template"]["spec"]["containers"]
    return dict(found)


@cache
def unbuildable() -> str | None:
    """Why no image can be built and run here; None if one can."""
    install = "apt-get install buildah podman runc catatonit iptables containernetworking-plugins"
    if shutil.which("podman") is None:
        return f"podman is needed: {install}"
    if subprocess.run(["podman", "image", "exists", BASE], check=False).returncode:
        pulled = subprocess.run(["podman", "pull", BASE], check=False, capture_output=True, text=True)
        if pulled.returncode:
            return f"{BASE} is not to be had: {pulled.stderr.strip()}"
    tried = ("podman", "run", "--rm", "--network=host", BASE, "true")
    ran = subprocess.run(tried, check=False, capture_output=True, text=True)
    return f"podman cannot run a container: {ran.stderr.strip()}" if ran.returncode else None


@pytest.fixture(scope="session")
def podman() -> str:
    """The program, once it has run a container of the image that others are based on."""
    if reason := unbuildable():
        pytest.skip(reason)
    return "podman"


def said(*command: str | Path) -> str:
    """What a command prints, once it has succeeded."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def pinned(requirements: Path) -> dict[str, str]:
    """The versions of the packages in a requirements file, by their normal names."""
    lines = re.findall(r"^([\w.-]+)==(\S+)", requirements.read_text(), re.MULTILINE)
    return {normal(name): version for name, version in lines}


def constraints() -> dict[str, str]:
    return pinned(ROOT / "constraints.txt")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def wait_until_ready(url: str, seconds: float, log: Callable[[], str]) -> None:
    """Returns once the server at `url` is ready."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=10).is_success:
                return
        time.sleep(0.05)
    raise AssertionError(f"it is not ready after {seconds} s:\n{log()}")


def assert_answers(url: str) -> None:
    """Every model answers, among them the one that reads pictures by OpenCV."""
    picture = DIGIT.read_bytes()
    digit = httpx.post(f"{url}/v1/digits", content=picture, headers={"Content-Type": "image/jpeg"})
    assert digit.json()["predictions"][0]["digit"] == 7
    review = httpx.post(f"{url}/v1/sentiment", json={"reviews": ["A wonderful film."]})
    assert review.json()["predictions"][0]["label"] == "positive"
    assert httpx.post(f"{url}/v1/mammogram", json={"masses": [{"age": 50}]}).is_success
    clothes = httpx.post(f"{url}/v1/fashion", json={"count": 2, "label": "Coat"})
    assert clothes.content.startswith(b"\x89PNG")
    assert "deepserve_requests_total" in httpx.get(f"{url}/metrics").text
