"""Others judge what is in deploy/: the schemas of Kubernetes and of its extensions, linters, the parser of compose."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.conftest import OVERLAYS, Manifest, program, render
from tests.environments import environment
from tests.paths import ROOT

pytestmark = pytest.mark.deploy

HERE = Path(__file__).parent
CLUSTERS = ("1.35.0", "1.36.0", "1.37.0")
"""The newest three releases that are known to kubernetes-validate."""
EXTENSIONS = ("ScaledObject", "ServiceMonitor")
ALLOWED = {
    "CKV_K8S_15": "releases have a tag of their own, so that there is nothing new to pull",
    "CKV_K8S_35": "the keys are one variable among others, as everywhere else",
    "CKV_K8S_43": "who installs it knows the digest of the image",
    "CKV_DOCKER_7": "the base is pinned, in an argument",
    "CKV_DOCKER_9": "it is mistaken: that is dpkg, which removes apt",
}


@pytest.fixture(scope="module")
def tools() -> Path:
    """The programs of requirements.txt."""
    return environment(ROOT / ".venv-deploy", HERE / "requirements.txt")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the manifests of each overlay in a file."""
    folder = tmp_path_factory.mktemp("rendered")
    for overlay in OVERLAYS:
        (folder / f"{overlay}.yaml").write_text(yaml.safe_dump_all(render(overlay)))
    return folder


def judge(*command: str | Path) -> str:
    """What the program says, if it is content."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_kubernetes_takes_every_object(
    tools: Path, tmp_path: Path, manifests: tuple[Manifest, ...], cluster: str
) -> None:
    core = [manifest for manifest in manifests if manifest["kind"] not in EXTENSIONS]
    path = tmp_path / "core.yaml"
    path.write_text(yaml.safe_dump_all(core))
    said = judge(tools / "kubernetes-validate", "-k", cluster, "--strict", path)
    assert said.count("passed for resource") == len(core)
    assert "WARN" not in said


def test_its_extensions_take_their_objects_without_dropping_a_field(tools: Path, rendered: Path) -> None:
    assert "4 as they were" in judge(tools / "python", HERE / "check_extensions.py", *rendered.glob("*.yaml"))


def test_the_linters_of_policies_and_images_have_no_objection(tools: Path, rendered: Path) -> None:
    shutil.copy(ROOT / "deploy" / "Dockerfile", rendered)
    frameworks = ("kubernetes", "dockerfile", "secrets")  # the last says nothing where it finds none
    options = ("--compact", "--skip-download", "--skip-check", ",".join(ALLOWED))
    said = judge(tools / "checkov", "--directory", rendered, "--framework", *frameworks, *options)
    assert said.count("Failed checks: 0") == 2
    assert judge(tools / "hadolint", "deploy/Dockerfile") == ""


def test_compose_is_sound_and_its_files_are_there(tools: Path) -> None:
    merged = yaml.safe_load(judge(tools / "podman-compose", "-f", "deploy/compose.yaml", "config"))
    assert set(merged["services"]) == {"deepserve", "prometheus", "grafana"}


def test_compose_on_a_gpu_builds_the_other_image_and_reserves_a_gpu(tools: Path) -> None:
    files = ("-f", "deploy/compose.yaml", "-f", "deploy/compose/gpu.yaml")
    service = yaml.safe_load(judge(tools / "podman-compose", *files, "config"))["services"]["deepserve"]
    assert (service["build"]["target"], service["build"]["args"]) == ("cuda", ["EXTRA=gpu"])
    assert service["read_only"] is True
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_prometheus_takes_its_configuration() -> None:
    judge(
        program("promtool", install="apt-get install prometheus"), "check", "config", "deploy/compose/prometheus.yaml"
    )
