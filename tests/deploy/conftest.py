"""What deploy/ makes of the service, and the programs that judge it.

`make test` holds the manifests against the code; `make test-deploy` runs everything: marked `deploy`, because it builds
images and restarts servers under load, which takes minutes and programs that not every machine has.
"""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
OVERLAYS = sorted(path.parent.name for path in ROOT.glob("deploy/kubernetes/overlays/*/kustomization.yaml"))
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
    folder = ROOT / "deploy" / "kubernetes" / "overlays" / overlay
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
