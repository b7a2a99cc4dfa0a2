"""The JSON of an inference request of the Open Inference Protocol, its types checked while it is parsed.

An optional field may be absent or null, alike.
"""

from typing import Annotated

import msgspec

from service.api.v2.tensors import Number
from service.errors import Malformed

_NULL = msgspec.Raw(b"null")

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class InputParameters(msgspec.Struct, frozen=True):
    """The parameters of an input that the extensions define. Others are ignored."""

    binary_data_size: Count | None = None
    """Size of the tensor in bytes, in the binary data after the JSON."""
    shared_memory_region: str | None = None
    """Refused: shared memory is not supported."""


class InputTensor(msgspec.Struct, frozen=True):
    """An input tensor. Its elements are in `data`, in row-major order, or in the binary data after the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Number] | None = None
    parameters: InputParameters | None = None

    @property
    def elements(self) -> list[Number] | msgspec.Raw | None:
        """The data, a flat list or unparsed JSON; None if the JSON has none."""
        return self.data


class NestedTensor(InputTensor, frozen=True):
    """An input tensor whose `data` may be lists of lists, not parsed yet."""

    data: msgspec.Raw = _NULL  # type: ignore[assignment]

    @property
    def elements(self) -> msgspec.Raw | None:
        return None if self.data == _NULL else self.data


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


class NestedRequest(InferRequest, frozen=True):
    """An inference request whose inputs may be nested."""

    inputs: list[NestedTensor]  # type: ignore[assignment]


_FLAT = msgspec.json.Decoder(InferRequest)
_NESTED = msgspec.json.Decoder(NestedRequest)


def decode_request(text: bytes | memoryview) -> InferRequest:
    """Parse a request. The data of its inputs are flat lists of numbers, or all of them unparsed JSON.

    Raises:
        Malformed: the text is not JSON, or not a request.
    """
    try:
        try:
            return _FLAT.decode(text)
        except msgspec.ValidationError:
            return _NESTED.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"The body is no inference request: {error}.") from error
