"""Which task belongs to which model, and the reasons why a task and a version do not fit."""

import shutil
from pathlib import Path

import pytest

from service.inference.binding import bind, find_task, find_tasks
from service.registry.card import Card
from service.registry.verification import VerificationError
from service.tasks.sentiment import SentimentTask
from tests.paths import MODELS


@pytest.mark.parametrize(
    "version", sorted(MODELS.glob("*/*")), ids=lambda version: f"{version.parent.name}-{version.name}"
)
def test_every_shipped_version_has_a_task_that_fits(version: Path) -> None:
    assert bind(find_tasks([version.parent.name]), version, Card.read(version)).version == version.name


@pytest.mark.parametrize("name", ["letters", "pictures", "digits-2", "__init__"])
def test_other_names_have_no_task(name: str) -> None:
    assert find_task(name) is None
    assert find_tasks([name]) == {}


def test_a_model_without_a_task_cannot_be_bound() -> None:
    digits = MODELS / "digits" / "1"
    with pytest.raises(VerificationError, match="there is no task of this name"):
        bind({"sentiment": SentimentTask}, digits, Card.read(digits))


def test_a_version_of_another_task_does_not_fit() -> None:
    digits = MODELS / "digits" / "1"
    with pytest.raises(VerificationError, match=r"sentiment makes tokens .* the version takes pictures"):
        bind({"digits": SentimentTask}, digits, Card.read(digits))


@pytest.mark.parametrize(("content", "reason"), [("", "EOF"), ("{}", "Model missing")])
def test_a_file_that_the_task_cannot_read_is_the_reason(tmp_path: Path, content: str, reason: str) -> None:
    version = shutil.copytree(MODELS / "sentiment" / "1", tmp_path / "sentiment" / "1")
    (version / "tokenizer.json").write_text(content)
    with pytest.raises(VerificationError, match=f"the task sentiment cannot work with it: .*{reason}"):
        bind({"sentiment": SentimentTask}, version, Card.read(version))
