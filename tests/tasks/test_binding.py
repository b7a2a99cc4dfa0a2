"""Which predictor answers for which model, and what is said where the two do not fit."""

import shutil
from pathlib import Path

import pytest

from service.registry.binding import bind, task
from service.registry.card import Card
from service.registry.verification import VerificationError
from service.tasks.sentiment import SentimentTask
from tests.places import MODELS


@pytest.mark.parametrize(
    "version", sorted(MODELS.glob("*/*")), ids=lambda version: f"{version.parent.name}-{version.name}"
)
def test_every_shipped_version_has_a_predictor_that_fits(version: Path) -> None:
    predictor = task(version.parent.name)
    assert predictor is not None
    assert bind(predictor, version, Card.read(version)).version == version.name


@pytest.mark.parametrize("name", ["letters", "pictures", "digits-2", "__init__"])
def test_other_names_have_none(name: str) -> None:
    assert task(name) is None


def test_a_version_of_another_task_does_not_fit() -> None:
    digits = MODELS / "digits" / "1"
    with pytest.raises(VerificationError, match=r"sentiment makes tokens .* the version takes pictures"):
        bind(SentimentTask, digits, Card.read(digits))


@pytest.mark.parametrize(("content", "reason"), [("", "EOF"), ("{}", "Model missing")])
def test_a_file_that_the_predictor_cannot_read_is_the_reason(tmp_path: Path, content: str, reason: str) -> None:
    version = shutil.copytree(MODELS / "sentiment" / "1", tmp_path / "sentiment" / "1")
    (version / "tokenizer.json").write_text(content)
    with pytest.raises(VerificationError, match=f"the task sentiment cannot work with it: .*{reason}"):
        bind(SentimentTask, version, Card.read(version))
