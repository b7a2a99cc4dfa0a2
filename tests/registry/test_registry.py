"""Which version answers those who ask for none, while others are on trial."""

from typing import Any

import pytest

from service.registry.registry import ModelRegistry
from service.settings import Settings
from service.tasks.digits import DigitsTask
from tests.paths import MODELS

NEWER, OLDER = ({"digits": {"version": number, "share": 0.5}} for number in ("2", "1"))


def serving(numbers: list[str], **settings: Any) -> ModelRegistry:
    models = ModelRegistry(Settings(models_dir=MODELS, **settings), {"digits": DigitsTask})
    models.load("digits", numbers, None)
    return models


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "2"),
        ({"canary": NEWER}, "1"),
        ({"shadow": NEWER}, "1"),
        ({"shadow": OLDER}, "2"),
        ({"canary": OLDER, "shadow": NEWER}, "2"),
    ],
)
def test_the_newest_that_is_not_on_trial_answers(settings: dict[str, Any], expected: str) -> None:
    assert serving(["1", "2"], **settings).find("digits", None).version.number == expected


@pytest.mark.parametrize("settings", [{"canary": NEWER}, {"shadow": NEWER}])
def test_one_on_trial_answers_where_there_is_no_other(settings: dict[str, Any]) -> None:
    assert serving(["2"], **settings).find("digits", None).version.number == "2"


def test_a_canary_answers_none_of_those_who_send_no_id() -> None:
    models = serving(["1", "2"], canary={"digits": {"version": "2", "share": 1}})
    assert models.find("digits", None).version.number == "1"
    assert models.find("digits", None, "id").version.number == "2"
    assert models.find("digits", "1", "id").version.number == "1"


def test_without_its_canary_a_model_answers_as_ever() -> None:
    models = serving(["1", "2"], canary={"digits": {"version": "2", "share": 1}})
    models.load("digits", ["1"], None)
    assert models.find("digits", None, "id").version.number == "1"
