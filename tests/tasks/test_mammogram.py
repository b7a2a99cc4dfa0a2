"""Requests, inputs of the graph and responses of the mammogram task."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.tasks.mammogram import (
    LEVELS,
    MEASUREMENTS,
    NOTICE,
    Coverage,
    MammogramRequest,
    MammogramTask,
)

TASK = MammogramTask(Path("models/mammogram/1"))

AGES = st.one_of(st.integers(0, 120), st.floats(0, 120))
NAMES = {measurement: st.sampled_from(names) for measurement, names in LEVELS.items()}
CODES = {measurement: st.integers(1, len(names)) for measurement, names in LEVELS.items()}
MASSES = st.fixed_dictionaries(
    {}, optional={"age": st.none() | AGES, **{m: st.none() | NAMES[m] | CODES[m] for m in LEVELS}}
).filter(lambda mass: any(value is not None for value in mass.values()))


def decode(*masses: Any) -> list[list[float]]:
    """Return the rows of the graph's input for masses in JSON."""
    request = MammogramRequest.model_validate_json(json.dumps({"masses": masses}))
    inputs, _ = TASK.preprocess(request)
    rows = inputs["masses"]
    assert rows.dtype == np.float32
    assert rows.shape == (len(masses), 4)
    found: list[list[float]] = rows.tolist()
    return found


def faults(body: str) -> list[tuple[tuple[str | int, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        MammogramRequest.model_validate_json(body)
    return [(fault["loc"], fault["msg"]) for fault in caught.value.errors()]


def faults_of(mass: str) -> list[tuple[tuple[str | int, ...], str]]:
    """Return the faults of a second mass after a valid one."""
    return faults(f'{{"masses": [{{"age": 50}}, {mass}]}}')


def test_a_mass_of_the_data_set_gets_the_codes_of_the_data_set() -> None:
    mass = {"age": 67, "shape": "irregular", "margin": "spiculated", "density": "low"}
    assert decode(mass) == [[67, 4, 5, 3]]


@settings(deadline=None)
@given(st.lists(MASSES, min_size=1, max_size=64))
def test_every_mass_becomes_one_row(masses: list[dict[str, Any]]) -> None:
    for mass, row in zip(masses, decode(*masses), strict=True):
        for measurement, number in zip(MEASUREMENTS, row, strict=True):
            value = mass.get(measurement)
            if value is None:
                assert math.isnan(number)
            elif isinstance(value, str):
                assert LEVELS[measurement][int(number) - 1] == value
            else:
                assert number == np.float32(value)


@settings(deadline=None)
@given(MASSES)
def test_absent_and_null_are_the_same(mass: dict[str, Any]) -> None:
    np.testing.assert_array_equal(decode(mass), decode(dict.fromkeys(MEASUREMENTS) | mass))


@pytest.mark.parametrize("measurement", LEVELS)
def test_names_and_codes_give_the_same_row(measurement: str) -> None:
    for code, name in enumerate(LEVELS[measurement], 1):
        for spelling in (name, name.upper(), f" {name.title()} ", code, float(code)):
            np.testing.assert_array_equal(decode({measurement: spelling}), decode({measurement: code}))


@settings(deadline=None)
@given(
    st.sampled_from(list(LEVELS)),
    st.text() | st.integers() | st.floats() | st.booleans() | st.lists(st.integers(), max_size=2),
)
def test_an_invalid_level_is_rejected_with_its_location(measurement: str, value: Any) -> None:
    names = LEVELS[measurement]
    if isinstance(value, str):
        refused = value.strip().lower() not in names
    else:
        refused = isinstance(value, bool | list) or value not in range(1, len(names) + 1)
    if refused:
        ((loc, message),) = faults_of(json.dumps({measurement: value}))
        assert loc == ("masses", 1, measurement)
        assert names[0] in message or "integer" in message  # of one that is larger than any machine's
    else:
        decode({measurement: value})


@pytest.mark.parametrize("age", ["-0.1", "120.1", "1e400", "NaN", "Infinity", "-Infinity", '"67"', "true", "[]", "{}"])
def test_an_invalid_age_is_rejected(age: str) -> None:
    ((loc, _),) = faults_of(f'{{"age": {age}}}')
    assert loc == ("masses", 1, "age")


@pytest.mark.parametrize("age", [0, 0.5, 44.5, 120])
def test_ages_at_the_limits_are_accepted(age: float) -> None:
    assert decode({"age": age})[0][0] == age


@pytest.mark.parametrize(
    "mass", ["{}", '{"age": null}', '{"age": null, "shape": null, "margin": null, "density": null}']
)
def test_a_mass_without_any_measurement_is_rejected(mass: str) -> None:
    assert faults_of(mass) == [(("masses", 1), "age, shape, margin or density must be known")]


@pytest.mark.parametrize("field", ["birads", "bi_rads", "Age", "severity"])
def test_unknown_fields_are_rejected_by_name(field: str) -> None:
    ((loc, message),) = faults_of(f'{{"age": 50, "{field}": 4}}')
    assert loc == ("masses", 1, field)
    assert "not permitted" in message


@pytest.mark.parametrize("mass", ["null", "[]", "50", '"round"'])
def test_an_invalid_mass_is_rejected(mass: str) -> None:
    assert faults_of(mass)[0][0][:2] == ("masses", 1)


@pytest.mark.parametrize("count", [1, 64])
def test_one_to_64_masses_are_accepted(count: int) -> None:
    assert len(decode(*[{"age": 50}] * count)) == count


@pytest.mark.parametrize("count", [0, 65])
def test_no_masses_and_65_are_rejected(count: int) -> None:
    ((loc, _),) = faults(json.dumps({"masses": [{"age": 50}] * count}))
    assert loc == ("masses",)


def test_every_fault_is_listed() -> None:
    found = faults('{"masses": [{"age": -1, "shape": 9}, {"margin": "fuzzy"}, {"age": 50, "birads": 5}]}')
    assert [loc[1:] for loc, _ in found] == [(0, "age"), (0, "shape"), (1, "margin"), (2, "birads")]


@pytest.mark.parametrize(
    ("malignant", "severity"),
    [(0.0, "benign"), (0.25, "benign"), (0.5, "benign"), (0.75, "malignant"), (1.0, "malignant")],
)
def test_a_response_has_the_more_probable_severity(malignant: float, severity: str) -> None:
    outputs = {"probabilities": np.array([[1 - malignant, malignant]], np.float32)}
    (assessment,) = TASK.postprocess(outputs, [Coverage([], True)]).predictions
    assert (assessment.severity, assessment.probability_malignant) == (severity, malignant)


@pytest.mark.parametrize(
    ("mass", "missing", "in_distribution"),
    [
        ({"age": 50}, ["shape", "margin", "density"], True),
        ({"age": 17.9, "shape": 1, "margin": 1, "density": 3}, [], False),
        ({"age": 18, "shape": 1, "margin": 1, "density": 3}, [], True),
        ({"age": 96, "density": None}, ["shape", "margin", "density"], True),
        ({"age": 96.5}, ["shape", "margin", "density"], False),
        ({"shape": "oval", "margin": 2, "density": 3}, ["age"], True),
    ],
)
def test_a_prediction_says_what_it_could_not_rely_on(
    mass: dict[str, Any], missing: list[str], in_distribution: bool
) -> None:
    inputs, known = TASK.preprocess(MammogramRequest.model_validate({"masses": [mass]}))
    outputs = {"probabilities": np.full((len(inputs["masses"]), 2), 0.5, np.float32)}
    (assessment,) = TASK.postprocess(outputs, known).predictions
    assert (assessment.missing, assessment.in_distribution) == (missing, in_distribution)


def test_the_response_has_the_operating_points_of_the_card() -> None:
    newest = max(Path("models/mammogram").glob("[0-9]*"))
    answer = MammogramTask(newest).postprocess({"probabilities": np.empty((0, 2), np.float32)}, [])
    recorded = json.loads((newest / "card.json").read_text())["operating_points"]
    assert [(point.name, point.threshold) for point in answer.operating_points] == [
        (point["name"], point["threshold"]) for point in recorded
    ]
    sensitive = answer.operating_points[0]
    assert sensitive.sensitivity >= 0.93
    assert 0 < sensitive.threshold < 0.5
    assert TASK.postprocess({"probabilities": np.empty((0, 2), np.float32)}, []).operating_points == []


def test_a_response_has_model_version_and_notice() -> None:
    outputs = {"probabilities": np.array([[0.75, 0.25], [0.25, 0.75]], np.float32)}
    answer = json.loads(TASK.postprocess(outputs, [Coverage([], True)] * 2).model_dump_json())
    assert (answer["model"], answer["version"], answer["notice"]) == ("mammogram", "1", NOTICE)
    assert "not a diagnosis" in NOTICE
    assert [prediction["severity"] for prediction in answer["predictions"]] == ["benign", "malignant"]


@pytest.mark.parametrize("validate", [MammogramRequest.model_validate, lambda body: MammogramRequest(**body)])
def test_python_values_follow_the_same_rules(validate: Callable[[Any], MammogramRequest]) -> None:
    assert validate({"masses": [{"shape": 1}]}).masses[0].shape == 1
    with pytest.raises(ValidationError):
        validate({"masses": [{"shape": True}]})


def test_the_features_are_the_measurements() -> None:
    masses = np.array([[67, 4, 5, np.nan], [np.inf, -1, 2.5, 3]], np.float32)
    found = TASK.features({"masses": masses})
    assert list(found) == list(MEASUREMENTS)
    assert np.array_equal(np.stack(list(found.values()), axis=1), masses, equal_nan=True)
