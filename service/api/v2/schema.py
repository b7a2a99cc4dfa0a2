"""The JSON of the Open Inference Protocol: inference requests, responses and errors.

An optional field of a request may be absent or null, which mean the same. Unknown parameters are ignored.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.tasks.base import MAX_ITEMS

DATATYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}
"""The protocol's names of dtypes."""

Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Size = Annotated[int, Meta(extra_json_schema={"minimum": 0})]

Number = int | float
Elements = list[Number | list[Number | list[Number | list[Number | list[Number]]]]]
"""The elements of a tensor in row-major order: in a flat list, or in nested lists of up to five dimensions."""

_SHAPE = {"minItems": 1, "description": f"The first size is the number of rows, 1 to {MAX_ITEMS}."}
_DATA = {
    "items": {},
    "description": "The elements in row-major order: numbers, or strings if the datatype is BYTES.",
}

DOCUMENTED_ELEMENTS = {
    "anyOf": [{"type": "array", "items": {}}, {"type": "null"}],
    "description": "The elements, numbers in row-major order: in a flat list, or in lists of lists.",
}
"""How the OpenAPI document describes `InputTensor.data`: by elements of any type.

If it described them as numbers, some clients would send 7.0 for 7, which an integer tensor refuses.
"""


def protocol_shape(shape: Sequence[int | str]) -> list[int]:
    """Return a shape of a model card as the protocol writes it: -1 stands for a variable size."""
    return [size if isinstance(size, int) else -1 for size in shape]


class InputParameters(msgspec.Struct, frozen=True):
    """The parameters of an input that the extensions define. Others are ignored."""

    binary_data_size: Count | None = None
    """Size of the tensor in bytes, in the binary data after the JSON."""
    shared_memory_region: str | None = None
    """Refused: shared memory is not supported."""


class InputTensor(msgspec.Struct, frozen=True):
    """An input tensor. Its elements are in `data`, in row-major order, or in the binary data after the JSON."""

    name: str
    shape: Annotated[list[Annotated[int, Meta(extra_json_schema={"minimum": 1})]], Meta(extra_json_schema=_SHAPE)]
    datatype: Annotated[str, Meta(extra_json_schema={"enum": [*DATATYPES.values()]})]
    data: Elements | None = None
    parameters: InputParameters | None = None


class OutputParameters(msgspec.Struct, frozen=True):
    """The parameters of a requested output that the extensions define. Others are ignored."""

    binary_data: bool | None = None
    """Whether to return the tensor as binary data; by default, what `binary_data_output` says."""
    classification: Count | None = None
    """How many of the highest elements of each row to return as classes, instead of the tensor; 0 for the tensor."""
    shared_memory_region: str | None = None
    """Refused: shared memory is not supported."""


class RequestedOutput(msgspec.Struct, frozen=True):
    """An output tensor to return."""

    name: str
    parameters: OutputParameters | None = None


class InferParameters(msgspec.Struct, frozen=True):
    """The parameters of a request that the extensions define. Others are ignored."""

    binary_data_output: bool | None = None
    """Whether to return outputs as binary data after the JSON, by default as JSON."""
    timeout: Count | None = None
    """Microseconds after which the client no longer needs the response; 0 for no limit."""
    priority: Count | None = None
    """Has no effect: there is one queue."""


class InferRequest(msgspec.Struct, frozen=True):
    """An inference request."""

    inputs: list[InputTensor]
    outputs: list[RequestedOutput] | None = None
    """By default, all outputs of the model."""
    id: str | None = None
    """Returned in the response; by default, the X-Request-ID of the response."""
    parameters: InferParameters | None = None


class OutputTensorParameters(msgspec.Struct, frozen=True):
    """The parameters of an output tensor."""

    binary_data_size: Annotated[
        Size, Meta(extra_json_schema={"description": "Size in bytes, in the binary data after the JSON."})
    ]


class OutputTensor(msgspec.Struct, frozen=True):
    """An output tensor."""

    name: str
    datatype: Annotated[str, Meta(extra_json_schema={"enum": [*DATATYPES.values(), "BYTES"]})]
    shape: Sequence[Size]
    data: Annotated[list[Any] | UnsetType, Meta(extra_json_schema=_DATA)] = UNSET
    parameters: OutputTensorParameters | UnsetType = UNSET


class InferResponse(msgspec.Struct, frozen=True):
    """The outputs of a model."""

    model_name: str
    model_version: str
    outputs: list[OutputTensor]
    id: Annotated[str, Meta(extra_json_schema={"description": "Of the request; its X-Request-ID if it had no id."})]


class V2Error(msgspec.Struct, frozen=True):
    """An error of the Open Inference Protocol."""

    error: str


class Done(msgspec.Struct, frozen=True):
    """Nothing: the operation has succeeded."""
