import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.engine.card import Card, TensorSpec
from service.errors import Malformed
from service.http.v2.body import JSON_LENGTH, TensorModel, answer, read
from service.http.v2.tensors import DATATYPES

LONGEST = 6
INPUTS = {"pixels": ("uint8", ("batch", 2, 3)), "ids": ("int64", ("batch", "length")), "row": ("float32", ("batch", 4))}
OUTPUTS = {"scores": ("float32", ("batch", 3)), "picture": ("uint8", ("batch", 2, 2))}


def specs(tensors: dict[str, tuple[str, tuple[int | str, ...]]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec.model_validate({"name": name, "dtype": dtype, "shape": shape, "meaning": "", "range": ""})
        for name, (dtype, shape) in tensors.items()
    )


MODEL = TensorModel(
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
def test_inputs_are_read_in_whatever_way_each_is_written(values: dict[str, np.ndarray], ways: dict[str, str]) -> None:
    body, length = written(values, ways)
    found = read(body, length, MODEL).inputs
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@given(tensors(INPUTS), st.data())
def test_a_body_cut_anywhere_is_refused(values: dict[str, np.ndarray], data: st.DataObject) -> None:
    body, length = written(values, {"pixels": "binary", "ids": "flat", "row": "binary"})
    with pytest.raises(Malformed):
        read(body[: data.draw(st.integers(0, len(body) - 1))], length, MODEL)


@given(tensors(OUTPUTS), st.fixed_dictionaries(dict.fromkeys(OUTPUTS, st.booleans())), st.permutations(list(OUTPUTS)))
def test_outputs_come_back_as_asked(values: dict[str, np.ndarray], binary: dict[str, bool], order: list[str]) -> None:
    shapes = {"pixels": (1, 2, 3), "ids": (1, 1), "row": (1, 4)}
    zeros = {name: np.zeros(shape, INPUTS[name][0]) for name, shape in shapes.items()}
    body, _ = written(zeros, dict.fromkeys(INPUTS, "flat"))
    asked = [{"name": name, "parameters": {"binary_data": binary[name]}} for name in order]
    request = json.dumps({**json.loads(body), "id": "an id", "outputs": asked}).encode()
    reply = answer(read(request, "", MODEL), values, MODEL)
    size = int(reply.headers.get(JSON_LENGTH, len(reply.body)))
    assert (JSON_LENGTH in reply.headers) == any(binary.values())
    content, rest = json.loads(reply.body[:size]), reply.body[size:]
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


def test_only_the_first_output_has_the_classes_of_the_card() -> None:
    assert [form.classify(np.eye(3, dtype=np.float32)[:1], 1) for form in MODEL.outputs.values()] == [
        ["1.000000:0:low"],
        ["1.000000:0"],
    ]
