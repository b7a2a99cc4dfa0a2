"""Clients generated from the OpenAPI document work for every operation."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.environments import environment
from tests.live.conftest import serving
from tests.paths import DIGIT, ROOT

FOLDER = Path(__file__).parent / "generated"
KEY = "an-admin-key"


@pytest.fixture(scope="module")
def programs() -> Path:
    """Return the `bin` directory of the generators' environment."""
    return environment(ROOT / ".venv-generators", FOLDER / "requirements.txt", "--no-deps", "--no-compile")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a server that allows changes of its models."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(log, admin_keys=KEY) as url:
        yield url


@pytest.fixture(scope="module")
def document(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_bytes(httpx.get(f"{server}/docs.json").content)
    return path


def run(*command: str | Path) -> str:
    """Run a program that must succeed; return its output."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def operations(document: Path) -> set[str]:
    paths = json.loads(document.read_text())["paths"].values()
    return {operation["operationId"] for path in paths for operation in path.values()}


def test_the_document_is_valid(programs: Path, document: Path) -> None:
    assert "OK" in run(programs / "python", "-m", "openapi_spec_validator", document)


def test_openapi_python_client_generates_a_working_client(
    programs: Path, server: str, document: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"content_type_overrides": {"image/*": "application/octet-stream"}, "post_hooks": []}))
    options = ["--meta", "none", "--fail-on-warning", "--config", config, "--output-path", tmp_path / "client"]
    run(programs / "openapi-python-client", "generate", "--path", document, *options)
    script = FOLDER / "ask_openapi_python_client.py"
    called = run(programs / "python", script, tmp_path, server, KEY, document, DIGIT)
    assert set(called.split()) == operations(document)


def test_openapi_generator_generates_a_working_client(
    programs: Path, server: str, document: Path, tmp_path: Path
) -> None:
    nothing_else = "apis,models,supportingFiles,apiDocs=false,modelDocs=false,apiTests=false,modelTests=false"
    options = ["-g", "python", "-o", tmp_path, "--global-property", nothing_else]
    said = run(programs / "openapi-generator-cli", "generate", "-i", document, *options)
    assert "operationId" not in said
    script = FOLDER / "ask_openapi_generator.py"
    called = run(programs / "python", script, tmp_path, server, KEY, document, DIGIT)
    assert set(called.split()) == operations(document)
