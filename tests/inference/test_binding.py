"""Which task belongs to which model, and the reasons why a task and a version do not fit."""

import shutil
from pathlib import Path

import pytest

from service.inference.binding import bind
from service.registry.card import Card
from service.registry.verification import VerificationError
from tests.paths import MODELS


@pytest.mark.parametrize(
    "version", sorted(MODELS.glob("*/*")), ids=lambda version: f"{version.parent.name}-{version.name}"
)
def test_every_shipped_version_has_a_task_that_fits(version: Path) -> None:
    assert bind(version, Card.read(version)).version == version.name


def renamed(version: Path, name: str) -> Card:
    """Return the card of a version as that of another model."""
    return Card.read(version).model_copy(update={"name": name})


def test_a_model_without_a_task_cannot_be_bound() -> None:
    digits = MODELS / "digits" / "1"
    with pytest.raises(VerificationError, match="there is no task of this name"):
        bind(digits, renamed(digits, "letters"))


def test_a_version_of_another_task_does_not_fit() -> None:
    digits = MODELS / "digits" / "1"
    with pytest.raises(VerificationError, match=r"sentiment makes tokens .* the version takes pictures"):
        bind(digits, renamed(digits, "sentiment"))


@pytest.mark.parametrize(("content", "reason"), [("", "Expecting value"), ("{}", "not the definition of a tokenizer")])
def test_a_file_that_the_task_cannot_read_is_the_reason(tmp_path: Path, content: str, reason: str) -> None:
    version = shutil.copytree(MODELS / "sentiment" / "2", tmp_path / "sentiment" / "2")
    (version / "tokenizer.json").write_text(content)
    with pytest.raises(VerificationError, match=f"the task sentiment cannot work with it: .*{reason}"):
        bind(version, Card.read(version))
