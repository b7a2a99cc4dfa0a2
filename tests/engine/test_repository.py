"""A version serves only once it has proved itself, and one that fails takes no other down."""

import shutil
from pathlib import Path

import pytest

from service.engine.card import Card
from service.engine.inference import Runtime
from service.engine.repository import Repository, State
from service.errors import NotFound, Unavailable

SHIPPED = Path(__file__).parent.parent.parent / "models"


def loaded(root: Path) -> Repository:
    repository = Repository(root, Runtime())
    repository.load()
    return repository


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two versions of digits: the perceptron, twice."""
    for version in ("1", "2"):
        shutil.copytree(SHIPPED / "digits" / "1", tmp_path / "digits" / version)
    card = Card.read(tmp_path / "digits" / "2")
    card.model_copy(update={"version": "2"}).write(tmp_path / "digits" / "2")
    return tmp_path


def test_what_is_shipped_is_ready() -> None:
    repository = loaded(SHIPPED)
    assert repository.ready
    versions = [version for versions in repository.models.values() for version in versions.values()]
    assert all(version.state is State.READY for version in versions), [version.reason for version in versions]


def test_the_newest_ready_version_answers(models: Path) -> None:
    for extra in ("10", "9"):
        shutil.copytree(models / "digits" / "2", models / "digits" / extra)
        Card.read(models / "digits" / extra).model_copy(update={"version": extra}).write(models / "digits" / extra)
    repository = loaded(models)
    assert list(repository.versions("digits")) == ["1", "2", "9", "10"]
    assert repository.newest("digits").version == "10"


def test_other_files_and_folders_are_ignored(models: Path) -> None:
    (models / "digits" / "latest").mkdir()
    (models / "digits" / "03").mkdir()
    (models / "digits" / ".3.checkpoint.pt").write_bytes(b"")
    (models / "README.md").write_text("")
    (models / ".hidden").mkdir()
    (models / "digits" / "1" / ".DS_Store").write_bytes(b"x")
    (models / "empty").mkdir()
    repository = loaded(models)
    assert {name: list(versions) for name, versions in repository.models.items()} == {"digits": ["1", "2"]}
    assert repository.ready


def flip_a_bit(version: Path) -> None:
    content = bytearray((version / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (version / "model.onnx").write_bytes(content)


def test_a_damaged_version_is_unavailable_and_the_other_serves(models: Path) -> None:
    flip_a_bit(models / "digits" / "2")
    repository = loaded(models)
    assert repository.ready  # by version 1
    broken = repository.version("digits", "2")
    assert broken.state is State.UNAVAILABLE
    assert broken.reason is not None
    assert "model.onnx" in broken.reason
    assert repository.newest("digits").version == "1"


def test_what_is_not_there_is_not_found(models: Path) -> None:
    repository = loaded(models)
    with pytest.raises(NotFound):
        repository.newest("letters")
    with pytest.raises(NotFound):
        repository.version("digits", "3")


def test_without_a_ready_version_a_model_is_unavailable(models: Path) -> None:
    for version in ("1", "2"):
        flip_a_bit(models / "digits" / version)
    repository = loaded(models)
    assert not repository.ready
    with pytest.raises(Unavailable):
        repository.newest("digits")


def test_an_empty_repository_is_not_ready(tmp_path: Path) -> None:
    assert not loaded(tmp_path).ready
