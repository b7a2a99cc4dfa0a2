"""A request is read in every form that the protocol has, and outputs are written as the request asks."""

import copy
import json
from codecs import BOM_UTF8
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.api.v2.codec import JSON_LENGTH, ModelCodec
from service.api.v2.schema import DATATYPES
from service.errors import Malformed
from service.registry.card import Card
from service.tensors import TensorSpec

LONGEST = 6
INPUTS = {"pixels": ("uint8", ("batch", 2, 3)), "ids": ("int64", ("batch", "length")), "row": ("float32", ("batch", 4))}
OUTPUTS = {"scores": ("float32", ("batch", 3)), "picture": ("uint8", ("batch", 2, 2))}


def specs(tensors: dict[str, tuple[str, tuple[int | str, ...]]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec.model_validate({"name": name, "dtype": dtype, "shape": shape, "meaning": "", "range": ""})
        for name, (dtype, shape) in tensors.items()
    )


CODEC = ModelCodec(
    Card.model_construct(
        name="m", version="3", inputs=specs(INPUTS), outputs=specs(OUTPUTS), classes=("low", "mid", "high")
    ),
    LONGEST,
    {},
)


@st.composite
def tensors(draw: st.DrawFn, of: dict[str, tuple[str, tuple[int | str, ...]]]) -> dict[str, np.ndarray]:
    """Finite values of the same number of rows."""
    rows, length = draw(st.integers(1, 3)), draw(st.integers(1, LONGEST))
    sizes = {"batch": rows, "length": length}
    finite = {"allow_nan": False, "allow_infinity": False}
    return {
        name: draw(
            arrays(
                dtype,
                tuple(size if isinstance(size, int) else sizes[size] for size in shape),
                elements=finite if dtype == "float32" else None,
            )
        )
        for name, (dtype, shape) in of.items()
    }


def written(values: dict[str, np.ndarray], ways: dict[str, str]) -> tuple[bytes, str]:
    """A request whose inputs are `flat`, `nested` or `binary`, and the length of its JSON if that is not all."""
    inputs, behind = [], b""
    for name, value in values.items():
        tensor = {"name": name, "datatype": DATATYPES[value.dtype.name], "shape": value.shape}
        if ways[name] == "binary":
            tensor["parameters"] = {"binary_data_size": value.nbytes}
            behind += value.tobytes()
        else:
            tensor["data"] = (value if ways[name] == "nested" else value.ravel()).tolist()
        inputs.append(tensor)
    text = json.dumps({"inputs": inputs}).encode()
    return text + behind, str(len(text)) if behind else ""


@given(tensors(INPUTS), st.fixed_dictionaries(dict.fromkeys(INPUTS, st.sampled_from(["flat", "nested", "binary"]))))
def test_each_input_may_be_flat_nested_or_binary(values: dict[str, np.ndarray], ways: dict[str, str]) -> None:
    body, length = written(values, ways)
    found = CODEC.read(body, length, "r").inputs
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@given(tensors(INPUTS), st.data())
def test_a_body_cut_anywhere_is_refused(values: dict[str, np.ndarray], data: st.DataObject) -> None:
    body, length = written(values, {"pixels": "binary", "ids": "flat", "row": "binary"})
    with pytest.raises(Malformed):
        CODEC.read(body[: data.draw(st.integers(0, len(body) - 1))], length, "r")


@given(tensors(OUTPUTS), st.fixed_dictionaries(dict.fromkeys(OUTPUTS, st.booleans())), st.permutations(list(OUTPUTS)))
def test_outputs_are_written_as_the_request_asks(
    values: dict[str, np.ndarray], binary: dict[str, bool], order: list[str]
) -> None:
    shapes = {"pixels": (1, 2, 3), "ids": (1, 1), "row": (1, 4)}
    zeros = {name: np.zeros(shape, INPUTS[name][0]) for name, shape in shapes.items()}
    body, _ = written(zeros, dict.fromkeys(INPUTS, "flat"))
    asked = [{"name": name, "parameters": {"binary_data": binary[name]}} for name in order]
    request = json.dumps({**json.loads(body), "id": "an id", "outputs": asked}).encode()
    response = CODEC.write(CODEC.read(request, "", "r"), values)
    size = int(response.headers.get(JSON_LENGTH, len(response.body)))
    assert (JSON_LENGTH in response.headers) == any(binary.values())
    content, rest = json.loads(response.body[:size]), response.body[size:]
    assert (content["id"], content["model_name"], content["model_version"]) == ("an id", "m", "3")
    assert [output["name"] for output in content["outputs"]] == order
    for output in content["outputs"]:
        expected = values[output["name"]]
        assert output["datatype"] == DATATYPES[expected.dtype.name]
        if binary[output["name"]]:
            taken = output["parameters"]["binary_data_size"]
            found, rest = np.frombuffer(rest[:taken], expected.dtype), rest[taken:]
        else:
            found = np.array(output["data"], expected.dtype)
        np.testing.assert_array_equal(found.reshape(output["shape"]), expected)
    assert not rest


OPTIONAL = {
    ("id",): "an id",
    ("parameters",): {},
    ("parameters", "binary_data_output"): True,
    ("parameters", "timeout"): 1000,
    ("parameters", "priority"): 1,
    ("parameters", "sequence_id"): 7,
    ("outputs",): [{"name": "picture"}, {"name": "scores"}],
    ("outputs", 0, "parameters"): {},
    ("outputs", 0, "parameters", "binary_data"): False,
    ("outputs", 0, "parameters", "shared_memory_region"): "region",
    ("outputs", 0, "parameters", "shared_memory_byte_size"): 7,
    ("outputs", 1, "parameters"): {},
    ("outputs", 1, "parameters", "classification"): 2,
    ("inputs", 0, "data"): [[[0, 1, 2], [3, 4, 5]]],
    ("inputs", 1, "data"): [7],
    ("inputs", 1, "parameters"): {},
    ("inputs", 1, "parameters", "binary_data_size"): 8,
    ("inputs", 1, "parameters", "shared_memory_region"): "region",
    ("inputs", 2, "parameters"): {},
    ("inputs", 2, "parameters", "shared_memory_offset"): 0,
}
"""The optional fields of a request, and a value of each."""


def request_with(fields: dict[tuple[str | int, ...], object]) -> bytes:
    """A request that has these of its optional fields; those below one that it has not are left out."""
    request: dict[str, Any] = {
        "inputs": [
            {"name": "pixels", "datatype": "UINT8", "shape": [1, 2, 3]},
            {"name": "ids", "datatype": "INT64", "shape": [1, 1]},
            {"name": "row", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]},
        ]
    }
    for (*way, name), value in fields.items():
        place: Any = request
        for step in way:
            if place is not None:
                place = place[step] if isinstance(place, list) else place.get(step)
        if place is not None:
            place[name] = copy.deepcopy(value)
    return json.dumps(request).encode()


def outcome(body: bytes) -> object:
    """What a request comes to: what it asks for, or that it is refused."""
    try:
        found = CODEC.read(body, "", "r")
    except Malformed:
        return Malformed
    return {name: each.tolist() for name, each in found.inputs.items()}, found.outputs, found.id, found.timeout_seconds


@given(st.dictionaries(st.sampled_from(list(OPTIONAL)), st.sampled_from(["value", "null"])))
def test_a_null_optional_field_is_the_same_as_an_absent_one(chosen: dict[tuple[str | int, ...], str]) -> None:
    in_order = {field: chosen[field] for field in OPTIONAL if field in chosen}
    with_nulls = {field: OPTIONAL[field] if what == "value" else None for field, what in in_order.items()}
    without = {field: value for field, value in with_nulls.items() if value is not None}
    assert outcome(request_with(with_nulls)) == outcome(request_with(without))


def test_all_optional_fields_may_be_null_at_once() -> None:
    needed = {("inputs", 0, "data"), ("inputs", 1, "data")}
    fields = {field: value if field in needed else None for field, value in OPTIONAL.items()}
    assert outcome(request_with(fields)) == outcome(request_with({field: OPTIONAL[field] for field in needed}))
    assert outcome(request_with(fields)) is not Malformed


def test_default_values_are_the_same_as_absent_ones() -> None:
    needed = {("inputs", 0, "data"): OPTIONAL["inputs", 0, "data"], ("inputs", 1, "data"): [7]}
    defaults: dict[tuple[str | int, ...], object] = {
        ("id",): "",
        ("parameters",): {"binary_data_output": False, "timeout": 0, "priority": 0},
        ("outputs",): [],
        ("inputs", 0, "parameters"): {"shared_memory_region": ""},
    }
    assert outcome(request_with(needed | defaults)) == outcome(request_with(needed)) != Malformed
    outputs = [{"name": "scores"}, {"name": "picture"}]
    explicit = [{**each, "parameters": {"classification": 0, "shared_memory_region": ""}} for each in outputs]
    one, other = ({**needed, ("outputs",): each} for each in (outputs, explicit))
    assert outcome(request_with(one)) == outcome(request_with(other)) != Malformed


def test_the_id_of_the_response_is_the_clients_own_or_that_of_the_http_request() -> None:
    body = {"inputs": json.loads(request_with({("inputs", 0, "data"): [0] * 6, ("inputs", 1, "data"): [0]}))["inputs"]}
    for given_id, expected in (("mine", "mine"), ("", "r"), (None, "r")):
        assert CODEC.read(json.dumps({**body, "id": given_id}).encode(), "", "r").id == expected
    assert CODEC.read(json.dumps(body).encode(), "", "r").id == "r"


def test_a_byte_order_mark_before_the_json_is_ignored() -> None:
    rows = {"pixels": np.zeros((1, 2, 3), np.uint8), "ids": np.ones((1, 1), np.int64), "row": np.ones((1, 4), "f4")}
    for ways in (dict.fromkeys(INPUTS, "flat"), {"pixels": "nested", "ids": "binary", "row": "flat"}):
        body, length = written(rows, ways)
        found = CODEC.read(BOM_UTF8 + body, length and str(int(length) + len(BOM_UTF8)), "r").inputs
        assert {name: each.tolist() for name, each in found.items()} == {
            name: each.tolist() for name, each in rows.items()
        }


def test_only_the_first_output_has_the_classes_of_the_card() -> None:
    assert [output.classify(np.eye(3, dtype=np.float32)[:1], 1) for output in CODEC.outputs.values()] == [
        ["1.000000:0:low"],
        ["1.000000:0"],
    ]
