"""Clients of the Open Inference Protocol that others have made work unchanged, with every model."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.conftest import ROOT

SCRIPTS = Path(__file__).parent / "clients"
ENVIRONMENT = ROOT / ".venv-clients"


@pytest.fixture(scope="session")
def python() -> Path:
    """The interpreter of the clients' own environment, which is made once and kept: their needs clash with ours."""
    requirements = SCRIPTS / "requirements.txt"
    made_from = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    stamp, interpreter = ENVIRONMENT / "made-from", ENVIRONMENT / "bin" / "python"
    with ENVIRONMENT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != made_from:
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
            install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "-r", requirements]
            subprocess.run([interpreter, *install], check=True)
            stamp.write_text(made_from)
    return interpreter


@pytest.mark.parametrize("client", ["triton", "kserve"])
def test_a_client_made_by_others_works_unchanged(python: Path, server: str, client: str) -> None:
    command = [python, SCRIPTS / f"ask_{client}.py", server.removeprefix("http://"), ROOT / "models"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"after {done.stdout.split()}:\n{done.stderr}"
    assert len(done.stdout.splitlines()) == len(list(ROOT.glob("models/*/*/card.json")))
