"""`bentoml build` and `bentoml containerize` work as BentoML's users know them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from load_tests.processes import free_ports
from tests.deploy.conftest import BASE, assert_answers, constraints, pinned, said, wait_until_ready
from tests.live.conftest import clean_environment
from tests.paths import ROOT

pytestmark = pytest.mark.deploy

TAG = "localhost/deepserve:bento"
BENTOML = Path(sys.executable).parent / "bentoml"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """With a store of bentos in which that of deepserve is, built as `make bento` does."""
    store = {"BENTOML_HOME": str(tmp_path_factory.mktemp("bentos")), "BENTOML_DO_NOT_TRACK": "True"}
    environment = {**clean_environment(), **store}
    subprocess.run([BENTOML, "build"], cwd=ROOT, env={**environment, "UV_CONSTRAINT": "constraints.txt"}, check=True)
    return environment


@pytest.fixture(scope="module")
def bento(environment: dict[str, str]) -> Path:
    [built] = Path(environment["BENTOML_HOME"]).glob("bentos/deepserve/*/bento.yaml")
    return built.parent


def test_a_bento_needs_what_was_tested(bento: Path) -> None:
    needed = pinned(bento / "env" / "python" / "requirements.txt")
    assert len(needed) > 50
    assert needed.items() <= constraints().items()


def test_a_bento_serves_from_anywhere(environment: dict[str, str], tmp_path: Path) -> None:
    [port] = free_ports(1)
    with (tmp_path / "log").open("w") as log:
        command = [BENTOML, "serve", "deepserve:latest", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, 60, (tmp_path / "log").read_text)
        assert_answers(url)
    finally:
        server.terminate()
        server.wait(30)


def test_the_image_that_bentoml_describes_is_built_and_serves(podman: str, bento: Path) -> None:
    """What `bentoml containerize --backend podman` does, with BUILD_OPTIONS of the environment."""
    dockerfile = bento / "env" / "docker" / "Dockerfile"
    [base] = re.findall(r"^FROM (\S+)", dockerfile.read_text(), re.MULTILINE)
    if subprocess.run([podman, "image", "exists", f"docker.io/library/{base}"], check=False).returncode:
        said(podman, "tag", BASE, f"docker.io/library/{base}")  # the same Python, on the Debian that is ours
    options = os.environ.get("BUILD_OPTIONS", "").split()
    said(podman, "build", "--format=docker", *options, "-f", dockerfile, "-t", TAG, bento)
    [port] = free_ports(1)
    made = said(podman, "run", "--detach", "--network=host", TAG, "serve", "--port", str(port))
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", 60, lambda: said(podman, "logs", made))
        assert_answers(f"http://127.0.0.1:{port}")
    finally:
        said(podman, "rm", "--force", made)
