"""Numbers and bytes become the same tensor that a client sent, or are refused."""

import struct
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.api.v2.schema import Elements, protocol_shape
from service.api.v2.tensors import ModelInput, ModelOutput, strings_to_bytes
from service.errors import Malformed
from service.tensors import TensorSpec

LONGEST = 8
FORMS = {
    "uint8": ("batch", 2, 3),
    "int64": ("batch", "length"),
    "float32": ("batch", 3),
}
DTYPES = sorted(FORMS)
TENS = st.floats(-10, 10, width=32)
LOWEST = {"uint8": 0, "int64": -(2**63)}
HIGHEST = {"uint8": 2**8 - 1, "int64": 2**63 - 1}


def model_input(dtype: str, shape: tuple[int | str, ...] | None = None) -> ModelInput:
    spec = TensorSpec.model_validate(
        {"name": "x", "dtype": dtype, "shape": shape or FORMS[dtype], "meaning": "", "range": ""}
    )
    return ModelInput(spec, LONGEST)


def from_json(expected: ModelInput, text: bytes, shape: Sequence[int]) -> np.ndarray:
    """The tensor of these elements, whose types are checked as in a request."""
    try:
        elements = msgspec.json.decode(text, type=Elements)
    except msgspec.DecodeError as error:
        raise Malformed(str(error)) from error
    return expected.from_elements(elements, shape)


def values_of(dtype: str, *, finite: bool) -> st.SearchStrategy[np.ndarray]:
    """Arrays that an input of `dtype` takes."""
    shapes = st.tuples(st.integers(1, 4), st.integers(1, LONGEST)).map(
        lambda size: (size[0], *(each if isinstance(each, int) else size[1] for each in FORMS[dtype][1:]))
    )
    elements = {"allow_nan": not finite, "allow_infinity": not finite} if dtype == "float32" else None
    return shapes.flatmap(lambda shape: arrays(dtype, shape, elements=elements))


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_json_gives_the_same_numbers_flat_and_nested(dtype: str, data: st.DataObject) -> None:
    values = data.draw(values_of(dtype, finite=True))
    for written in (values.tolist(), values.ravel().tolist()):
        read = from_json(model_input(dtype), msgspec.json.encode(written), values.shape)
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_bytes_give_the_same_numbers_at_any_offset(dtype: str, data: st.DataObject) -> None:
    values = data.draw(values_of(dtype, finite=False))
    before = data.draw(st.integers(0, 9))
    body = memoryview(b"x" * before + values.astype(values.dtype.newbyteorder("<")).tobytes())
    read = model_input(dtype).from_bytes(body[before:], values.shape)
    np.testing.assert_array_equal(read, values)
    assert read.flags.aligned


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_outputs_are_written_as_inputs_are_read(dtype: str, data: st.DataObject) -> None:
    values = data.draw(values_of(dtype, finite=False))
    spec = TensorSpec.model_validate({"name": "x", "dtype": dtype, "shape": FORMS[dtype], "meaning": "", "range": ""})
    written = ModelOutput(spec).to_bytes(values)
    np.testing.assert_array_equal(model_input(dtype).from_bytes(memoryview(written), values.shape), values)


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
@given(data=st.data())
def test_a_number_that_does_not_fit_is_refused_and_named(dtype: str, data: st.DataObject) -> None:
    wrong = data.draw(
        st.integers(max_value=LOWEST[dtype] - 1) | st.integers(min_value=HIGHEST[dtype] + 1) | st.floats(-1e9, 1e9)
    )
    numbers: list[float] = [1, 1, 1]
    numbers[data.draw(st.integers(0, 2))] = wrong
    with pytest.raises(Malformed, match=r"Input 'x': element [012] is .*, which .* cannot hold"):
        model_input(dtype, ("batch", 3)).from_elements(numbers, [1, 3])


@given(st.floats(min_value=3.5e38, max_value=1e300) | st.integers(min_value=2**128, max_value=2**2000))
def test_a_float_beyond_the_range_is_refused(number: float) -> None:
    for wrong in (number, -number):
        with pytest.raises(Malformed, match=r"element 1 is .*, which FP32 cannot hold"):
            model_input("float32").from_elements([0, wrong, 0], [1, 3])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", ["true", "null", '"1"', "{}", "[1]", "NaN", "Infinity", "1e999", "9" * 400])
@pytest.mark.parametrize("layout", ["[0,%s,0]", "[[0,%s,0]]", "[[0,0,0],%s]"])
def test_elements_other_than_numbers_are_refused(dtype: str, wrong: str, layout: str) -> None:
    with pytest.raises(Malformed):
        from_json(model_input(dtype, ("batch", 3)), (layout % wrong).encode(), [1, 3])


@pytest.mark.parametrize(
    "text", ["[]", "[[]]", "[1,2]", "[1,2,3,4]", "[[1,2],[3]]", "[[1],[2],[3]]", "[[[1,2,3]]]", "3", "null", "{}"]
)
def test_elements_that_do_not_fit_the_shape_are_refused(text: str) -> None:
    with pytest.raises(Malformed):
        from_json(model_input("float32"), text.encode(), [1, 3])


@pytest.mark.parametrize("size", [0, 8, 11, 13, 24])
def test_another_number_of_bytes_is_refused(size: int) -> None:
    with pytest.raises(Malformed, match=f"{size} bytes; .* needs 12"):
        model_input("float32").from_bytes(memoryview(bytes(size)), [1, 3])


@pytest.mark.parametrize(
    ("dtype", "datatype", "shape"),
    [
        ("uint8", "INT8", [1, 2, 3]),
        ("uint8", "uint8", [1, 2, 3]),
        ("uint8", "UINT8", [2, 3]),
        ("uint8", "UINT8", [1, 3, 2]),
        ("uint8", "UINT8", [1, 2, 3, 1]),
        ("uint8", "UINT8", [0, 2, 3]),
        ("uint8", "UINT8", [65, 2, 3]),
        ("uint8", "UINT8", [-1, 2, 3]),
        ("uint8", "UINT8", []),
        ("int64", "INT64", [1, 0]),
        ("int64", "INT64", [1, LONGEST + 1]),
        ("int64", "INT64", [1, -1]),
    ],
)
def test_another_datatype_or_shape_is_refused(dtype: str, datatype: str, shape: list[int]) -> None:
    with pytest.raises(Malformed, match="Input 'x'"):
        model_input(dtype).check(datatype, shape)


def test_the_datatype_and_shape_of_the_card_pass() -> None:
    model_input("uint8").check("UINT8", [64, 2, 3])
    model_input("int64").check("INT64", [64, LONGEST])
    model_input("int64", ("batch",)).check("INT64", [1])


@given(
    arrays("float32", st.tuples(st.integers(1, 3), st.integers(1, 5)), unique=True, elements=st.floats(-9, 9, width=32))
)
def test_classes_are_the_highest_elements_in_order(values: np.ndarray) -> None:
    labels = [f"label {column}" for column in range(values.shape[1])]
    spec = TensorSpec.model_validate(
        {"name": "y", "dtype": "float32", "shape": ("batch", values.shape[1]), "meaning": "", "range": ""}
    )
    for count in (1, values.shape[1], 1000):
        kept = min(count, values.shape[1])
        found = ModelOutput(spec, labels).classify(values, count)
        assert len(found) == len(values) * kept
        expected = [f"{row[column]:f}:{column}:label {column}" for row in values for column in np.argsort(-row)[:kept]]
        assert found == expected


def test_without_labels_a_class_is_value_and_index() -> None:
    spec = TensorSpec.model_validate({"name": "y", "dtype": "uint8", "shape": ("batch", 2), "meaning": "", "range": ""})
    assert ModelOutput(spec).classify(np.array([[3, 250]], np.uint8), 2) == ["250:1", "3:0"]


@given(st.lists(st.text()))
def test_strings_follow_their_lengths(strings: list[str]) -> None:
    rest, found = strings_to_bytes(strings), []
    while rest:
        (size,) = struct.unpack("<I", rest[:4])
        found.append(rest[4 : 4 + size].decode())
        rest = rest[4 + size :]
    assert found == strings


def test_a_free_dimension_is_minus_one() -> None:
    assert protocol_shape(("batch", 28, "length")) == [-1, 28, -1]
