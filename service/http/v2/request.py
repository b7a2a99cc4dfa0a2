"""The JSON of an inference request of the Open Inference Protocol, its types checked while it is parsed."""

from typing import Annotated

import msgspec

from service.errors import Malformed
from service.http.v2.tensors import Number

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class InputParameters(msgspec.Struct, frozen=True):
    """What the extensions say of an input."""

    binary_data_size: Count | None = None
    """Bytes of it behind the JSON."""
    shared_memory_region: str | None = None


class InputTensor(msgspec.Struct, frozen=True):
    """An input; its data, flat, or its bytes behind the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Number] | msgspec.UnsetType = msgspec.UNSET
    parameters: InputParameters = InputParameters()


class NestedTensor(InputTensor, frozen=True):
    """An input whose data may be lists of lists, still to be read."""

    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # type: ignore[assignment]


class OutputParameters(msgspec.Struct, frozen=True):
    """What the extensions say of an output."""

    binary_data: bool | None = None
    classification: Count = 0
    shared_memory_region: str | None = None


class RequestedOutput(msgspec.Struct, frozen=True):
    """An output that is asked for."""

    name: str
    parameters: OutputParameters = OutputParameters()


class Parameters(msgspec.Struct, frozen=True):
    """What the extensions say of a request. Others are for servers with sequences; here they mean nothing."""

    binary_data_output: bool = False
    timeout: Count = 0
    """Microseconds after which the answer is useless; 0 for never."""
    priority: Count = 0
    """Taken, and without effect: there is one queue."""


class InferRequest(msgspec.Struct, frozen=True):
    """The JSON of a request."""

    inputs: list[InputTensor]
    outputs: list[RequestedOutput] = []
    id: str = ""
    parameters: Parameters = Parameters()


class NestedRequest(InferRequest, frozen=True):
    """A request whose inputs may be nested."""

    inputs: list[NestedTensor]  # type: ignore[assignment]


_FLAT = msgspec.json.Decoder(InferRequest)
_NESTED = msgspec.json.Decoder(NestedRequest)


def decode_request(text: bytes | memoryview) -> InferRequest:
    """A request; the data of its inputs are flat lists of numbers, or all of them JSON that is still to be read.

    Raises:
        Malformed: it is not JSON, or not a request.
    """
    try:
        try:
            return _FLAT.decode(text)
        except msgspec.ValidationError:
            return _NESTED.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"The body is no inference request: {error}.") from error
