"""The server whose models the tests of this directory load and unload."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.conftest import serving
from tests.live.rollout.asking import WORKERS, order, states
from tests.paths import MODELS


@pytest.fixture(scope="session")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Return address and models directory of a server with two workers and an admin key."""
    folder = tmp_path_factory.mktemp("rollouts")
    for version in ("digits/1", "digits/2", "mammogram/1"):
        shutil.copytree(MODELS / version, folder / "models" / version)
    with serving(
        folder / "log", models_dir=str(folder / "models"), workers=str(WORKERS), threads="1", admin_keys="admin"
    ) as url:
        yield url, folder / "models"


@pytest.fixture
def url(rollouts: tuple[str, Path]) -> Iterator[str]:
    """Return the address; the models are restored afterwards."""
    address, models = rollouts
    yield address
    shutil.rmtree(models / "digits" / "3", ignore_errors=True)
    for name in ("digits", "mammogram"):
        assert order(address, "load", name).status_code == 200
    assert states(address, "digits") == {"1": "READY", "2": "READY"}


@pytest.fixture
def models(rollouts: tuple[str, Path]) -> Path:
    """Return its models directory."""
    return rollouts[1]
