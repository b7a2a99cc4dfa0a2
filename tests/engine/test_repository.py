"""A version serves only once it has proved itself, and one that fails takes no other down."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from service.engine.card import Card, Precision, digests
from service.engine.inference import Device, Runtime
from service.engine.repository import Repository, State
from service.errors import NotFound, Unavailable

SHIPPED = Path(__file__).parent.parent.parent / "models"


def loaded(root: Path, device: Device = "cpu", precision: Precision | Literal["auto"] = "auto") -> Repository:
    repository = Repository(root, Runtime(device, precision))
    repository.load()
    return repository


def reseal(version: Path) -> None:
    """Makes the card's checksums fit what the directory now holds."""
    card = json.loads((version / "card.json").read_text())
    card["files"] = digests(version)
    (version / "card.json").write_text(json.dumps(card))


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


def drop(name: str) -> Callable[[Path], None]:
    return lambda version: (version / name).unlink()


def truncate(name: str) -> Callable[[Path], None]:
    def damage(version: Path) -> None:
        (version / name).write_bytes((version / name).read_bytes()[:-50])

    return damage


def flip_a_bit(version: Path) -> None:
    content = bytearray((version / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (version / "model.onnx").write_bytes(content)


def add_a_file(version: Path) -> None:
    (version / "extra.bin").write_bytes(b"x")


def claim_another_name(version: Path) -> None:
    Card.read(version).model_copy(update={"name": "letters"}).write(version)


def claim_another_dtype(version: Path) -> None:
    card = Card.read(version)
    card.model_copy(update={"inputs": (card.inputs[0].model_copy(update={"dtype": "float32"}),)}).write(version)


def change_the_golden_outputs(version: Path) -> None:
    with np.load(version / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["int8:probabilities"] = arrays["int8:probabilities"][::-1]
    np.savez(version / "golden.npz", allow_pickle=False, **arrays)
    reseal(version)


def change_the_shape_of_golden_outputs(version: Path) -> None:
    with np.load(version / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["int8:probabilities"] = arrays["int8:probabilities"][:, :3]
    np.savez(version / "golden.npz", allow_pickle=False, **arrays)
    reseal(version)


def empty_the_golden_cases(version: Path) -> None:
    (version / "golden.npz").write_bytes(b"")
    reseal(version)


def add_a_folder(version: Path) -> None:
    (version / "extra").mkdir()


def forget_the_golden_outputs(version: Path) -> None:
    with np.load(version / "golden.npz") as golden:
        arrays = {name: values for name, values in golden.items() if not name.startswith("int8:")}
    np.savez(version / "golden.npz", allow_pickle=False, **arrays)
    reseal(version)


def replace_the_graph_by_garbage(version: Path) -> None:
    (version / "model.int8.onnx").write_bytes(b"garbage")
    reseal(version)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop("card.json"), "card.json"),
        (drop("model.onnx"), "model.onnx"),
        (drop("model.int8.onnx"), "model.int8.onnx"),
        (drop("golden.npz"), "golden.npz"),
        (truncate("card.json"), "card.json"),
        (truncate("model.onnx"), "model.onnx"),
        (flip_a_bit, "model.onnx"),
        (add_a_file, "extra.bin"),
        (claim_another_name, "letters"),
        (claim_another_dtype, "inputs"),
        (change_the_golden_outputs, "golden"),
        (forget_the_golden_outputs, "golden"),
        (replace_the_graph_by_garbage, "model.int8.onnx"),
        (empty_the_golden_cases, "golden"),
        (change_the_shape_of_golden_outputs, "cannot be read"),
        (add_a_folder, "cannot be read"),
    ],
)
def test_a_damaged_version_is_unavailable_and_the_other_serves(
    models: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(models / "digits" / "2")
    repository = loaded(models)
    assert repository.ready  # by version 1
    broken = repository.version("digits", "2")
    assert broken.state is State.UNAVAILABLE
    assert broken.reason is not None
    assert reason in broken.reason
    assert str(models) not in broken.reason
    assert repository.newest("digits").version == "1"


def test_a_version_runs_on_the_device_asked_for_or_says_that_it_cannot(models: Path) -> None:
    for version in loaded(models, device="cuda").versions("digits").values():
        if version.session is not None:
            assert version.session.provider == "CUDAExecutionProvider"
        else:
            assert version.reason is not None
            assert "cuda" in version.reason


def test_the_precision_on_the_card_is_served_unless_the_reference_is_asked_for(models: Path) -> None:
    pictures = {"pictures": np.load(models / "digits" / "1" / "golden.npz")["in:pictures"]}
    answers = {}
    for asked, served in (("auto", "int8"), ("float32", "float32")):
        session = loaded(models, precision=asked).newest("digits").session
        assert session is not None
        assert session.precision == served
        answers[served] = session.run(pictures)["probabilities"]
    difference = np.abs(answers["int8"] - answers["float32"])
    assert 0 < difference.max() < 0.05


def test_a_version_whose_card_knows_no_integers_serves_its_reference(models: Path) -> None:
    version = models / "digits" / "2"
    (version / "model.int8.onnx").unlink()
    Card.read(version).model_copy(update={"int8": None, "files": digests(version)}).write(version)
    session = loaded(models).newest("digits").session
    assert session is not None
    assert session.precision == "float32"


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
