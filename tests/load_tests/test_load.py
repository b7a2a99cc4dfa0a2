"""Load runs: what counts as a wrong answer, how users come and go, and when a run has failed."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.prepare import questions
from load_tests.questions import Question, read, write
from load_tests.users.memory import growth
from load_tests.users.shapes import CALM, SHAPES
from load_tests.users.slo import Objectives, Seen

FIGURES = Question(
    name="digits-3",
    task="digits",
    path="/v1/digits",
    headers={"Accept": "application/json"},
    body=b"{}",
    expected=({"version": "2", "predictions": [{"digit": 7, "confidence": 0.9}]},),
)


def answer(**changes: object) -> bytes:
    prediction = {"digit": 7, "confidence": 0.9, **changes}
    return json.dumps({"version": "2", "predictions": [prediction], "elsewhere": 1}).encode()


def test_the_right_answer_may_differ_in_what_rounds_and_say_more() -> None:
    assert FIGURES.fault(200, "digits-3", answer(confidence=0.9004, entropy=0.3)) is None


@pytest.mark.parametrize(
    ("status", "request_id", "body", "said"),
    [
        (503, "digits-3", b"The queue is full.", "status 503: The queue is full"),
        (0, None, b"", "status 0"),
        (200, "digits-4", answer(), "the answer to digits-4 came to digits-3"),
        (200, None, answer(), "the answer to None"),
        (200, "digits-3", answer(digit=1), r"predictions\[0\].digit is 1, not 7"),
        (200, "digits-3", answer(confidence=0.902), "confidence is 0.902"),
        (200, "digits-3", answer(confidence=None), "confidence is None"),
        (200, "digits-3", b'{"version": "2", "predictions": []}', "predictions is"),
        (200, "digits-3", b'{"version": "2"}', "not {"),
        (200, "digits-3", b"<html>", "no application/json"),
    ],
)
def test_an_answer_that_is_wrong_lost_or_somebody_elses_is_a_fault(
    status: int, request_id: str | None, body: bytes, said: str
) -> None:
    fault = FIGURES.fault(status, request_id, body)
    assert fault is not None
    assert re.search(said, fault), fault


def test_each_precision_of_a_version_may_answer() -> None:
    two = replace(FIGURES, expected=(*FIGURES.expected, {"predictions": [{"digit": 7, "confidence": 0.8}]}))
    assert two.fault(200, "digits-3", answer(confidence=0.8)) is None
    assert two.fault(200, "digits-3", answer(confidence=0.85)) is not None


@pytest.mark.parametrize("task", ["mammogram", "fashion"])
def test_questions_come_back_from_a_file_as_they_were(task: str, tmp_path: Path) -> None:
    made = questions(task, 16)
    write(made, tmp_path / "questions.jsonl")
    assert read(tmp_path / "questions.jsonl") == {task: made}
    assert len({one.name for one in made}) == 16


def test_a_missing_file_of_questions_is_named_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nowhere.jsonl is not there: python -m load_tests.prepare"):
        read(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("shape", SHAPES)
@given(gone=st.floats(0, 1, exclude_max=True))
def test_a_shape_never_has_more_users_than_all(shape: str, gone: float) -> None:
    assert 0 <= SHAPES[shape](gone) <= 1


def test_shapes_rise_in_steps_jump_and_stay() -> None:
    moments = (0.0, 0.25, 0.45, 0.65, 0.99)
    assert [SHAPES["steps"](gone) for gone in moments] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [SHAPES["spike"](gone) for gone in moments] == [CALM, CALM, 1.0, CALM, CALM]
    assert [SHAPES["soak"](gone) for gone in moments] == [0.0, 1.0, 1.0, 1.0, 1.0]


def test_each_objective_that_is_broken_is_named() -> None:
    objectives = Objectives.parse(0.01, "digits=50, sentiment=120")
    assert objectives.breaches([Seen("digits", 1000, 10, 50.0), Seen("sentiment", 9, 0, 119.0)]) == []
    assert objectives.breaches([Seen("digits", 1000, 11, 51.0), Seen("fashion", 10, 0, 5.0)]) == [
        "digits: 1.100% of 1000 failed, 1.000% may",
        "digits: p99 is 51 ms, 50 ms are allowed",
    ]


def test_a_soak_is_held_to_what_the_servers_memory_grows_by_once_it_is_warm() -> None:
    flat, leak = [100.0] * 20 + [300.0] * 80, [100.0 + 0.5 * second for second in range(100)]
    assert growth(flat) == 0
    assert growth(leak) == pytest.approx(30)
    assert Objectives.parse(0.0, "", growth_mb=40).breaches_of_soak(growth(leak)) == []
    assert Objectives.parse(0.0, "", growth_mb=20).breaches_of_soak(growth(leak)) == [
        "the server's memory has grown by 30.0 MB, 20 MB are allowed"
    ]
    assert Objectives().breaches_of_soak(growth(leak[:4])) == ["the server's memory was not seen for long enough"]


def test_a_run_without_a_request_keeps_no_objective() -> None:
    assert Objectives().breaches([Seen("digits", 0, 0, 0.0)]) == ["nobody asked anything"]


@pytest.mark.parametrize("setting", ["digitz=50", "digits", "digits=fast"])
def test_objectives_that_mean_nothing_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=r"digitz|float"):
        Objectives.parse(0.0, setting)
