"""Published clients of the Open Inference Protocol work unchanged with every model."""

import subprocess
from pathlib import Path

import pytest

from tests.live.conftest import CLIENTS
from tests.paths import MODELS, ROOT


@pytest.mark.parametrize("client", ["triton", "kserve"])
def test_a_published_client_works_unchanged(clients_python: Path, server: str, client: str) -> None:
    command = [clients_python, CLIENTS / f"ask_{client}.py", server.removeprefix("http://"), MODELS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"after {done.stdout.split()}:\n{done.stderr}"
    assert len(done.stdout.splitlines()) == len(list(ROOT.glob("models/*/*/card.json")))
