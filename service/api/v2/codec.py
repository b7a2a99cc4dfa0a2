"""Inference requests and responses of the Open Inference Protocol: JSON, and after it tensors as binary data."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from service.api.body import without_bom
from service.api.routing import HttpResponse
from service.api.v2.schema import (
    InferParameters,
    InferRequest,
    InferResponse,
    InputParameters,
    InputTensor,
    OutputParameters,
    OutputTensor,
    OutputTensorParameters,
    RequestedOutput,
)
from service.api.v2.tensors import ModelInput, ModelOutput, strings_to_bytes
from service.errors import Malformed, TooLarge
from service.registry.card import Card
from service.tasks.base import MAX_ITEMS
from service.tensors import Array, Tensors

JSON_LENGTH = "Inference-Header-Content-Length"
"""The header that says how many bytes of a body are JSON, if not all are."""
BINARY = "application/octet-stream"

MAX_NUMBER_BYTES = 32
"""The most bytes that a number takes in JSON, on average and with the space around it."""
MAX_STRUCTURE_BYTES = 65536
"""The most bytes of a request's JSON beside its numbers."""

_NO_PARAMETERS, _NO_INPUT_PARAMETERS, _NO_OUTPUT_PARAMETERS = InferParameters(), InputParameters(), OutputParameters()

_REQUEST = msgspec.json.Decoder(InferRequest)


@dataclass(frozen=True, slots=True)
class ResponseOutput:
    """An output that a response has."""

    output: ModelOutput
    binary: bool
    """Whether it is binary data after the JSON."""
    classes: int
    """How many of the highest elements of a row to return instead of all; 0 for all."""


@dataclass(slots=True)
class TensorRequest:
    """An inference request, checked against the model."""

    inputs: Tensors
    outputs: Sequence[ResponseOutput]
    id: str
    """Of the response."""
    timeout_seconds: float = math.inf


class ModelCodec:
    """Reads requests for a version of a model and writes its responses."""

    def __init__(self, card: Card, max_length: int, bounds: Mapping[str, tuple[int, int]]) -> None:
        """Create a codec.

        Args:
            card: of the version.
            max_length: the largest size of a variable dimension that is not the first.
            bounds: the least and greatest value of those inputs that have them.
        """
        self.name, self.version = card.name, card.version
        self.inputs = {spec.name: ModelInput(spec, max_length, bounds.get(spec.name)) for spec in card.inputs}
        self.outputs = {
            spec.name: ModelOutput(spec, card.classes if spec.name == card.scores else ()) for spec in card.outputs
        }
        self._all_outputs = {
            binary: [ResponseOutput(output, binary, 0) for output in self.outputs.values()] for binary in (True, False)
        }
        # Parsing holds up every other request, in a thread too, and no request needs more.
        elements = sum(each.max_elements for each in self.inputs.values())
        self._max_json_bytes = MAX_STRUCTURE_BYTES + MAX_NUMBER_BYTES * elements

    def read(self, body: bytes, json_length: str, request_id: str) -> TensorRequest:
        """Parse an inference request and check it against the model.

        Args:
            body: JSON, and after it the inputs that have a `binary_data_size`, in their order.
            json_length: the header `Inference-Header-Content-Length`: how many bytes of the body are JSON. Empty if all
                are; 0 if the body is nothing but one row of the only input.
            request_id: the id of the response if the client gives none.

        Raises:
            Malformed: the body is not a request, or not one for this model.
            TooLarge: its JSON is longer than the largest request can be.
        """
        size = _json_size(json_length, len(body))
        content = memoryview(body)
        if size == 0 and json_length:
            return TensorRequest(self._read_row(content), self._all_outputs[True], request_id)
        if size > self._max_json_bytes:
            raise TooLarge(f"The JSON may have at most {self._max_json_bytes:,} bytes: {MAX_ITEMS} rows need no more.")
        try:
            request = _REQUEST.decode(without_bom(content[:size]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(f"The body is not an inference request: {error}.") from error
        parameters = request.parameters or _NO_PARAMETERS
        inputs = self._read_inputs(request.inputs, content[size:])
        outputs = self._choose_outputs(request.outputs, bool(parameters.binary_data_output))
        timeout = parameters.timeout / 1e6 if parameters.timeout else math.inf
        return TensorRequest(inputs, outputs, request.id or request_id, timeout)

    def write(self, request: TensorRequest, outputs: Tensors) -> HttpResponse:
        """Return the response to a request for these outputs of the model."""
        written = [_write_output(each, outputs[each.output.name]) for each in request.outputs]
        tensors = [tensor for tensor, _ in written]
        text = msgspec.json.encode(InferResponse(self.name, self.version, tensors, request.id))
        chunks = [chunk for _, chunk in written if chunk is not None]
        if not chunks:
            return HttpResponse(text)
        return HttpResponse(b"".join([text, *chunks]), BINARY, headers={JSON_LENGTH: str(len(text))})

    def _read_inputs(self, tensors: Sequence[InputTensor], binary: memoryview) -> Tensors:
        """Return the inputs of a request; `binary` is what follows its JSON."""
        inputs: dict[str, Array] = {}
        for tensor in tensors:
            if (expected := self.inputs.get(tensor.name)) is None or tensor.name in inputs:
                raise Malformed(f"The inputs are {', '.join(self.inputs)}, each once; not {tensor.name!r}.")
            expected.check(tensor.datatype, tensor.shape)
            parameters = tensor.parameters or _NO_INPUT_PARAMETERS
            if parameters.shared_memory_region:
                raise Malformed(f"Input {tensor.name!r}: shared memory is not supported.")
            size = parameters.binary_data_size
            if tensor.data is not None and size is None:
                inputs[tensor.name] = expected.from_elements(tensor.data, tensor.shape)
            elif tensor.data is None and size is not None:
                inputs[tensor.name] = expected.from_bytes(binary[:size], tensor.shape)
                binary = binary[size:]
            else:
                raise Malformed(f"Input {tensor.name!r} needs one of data and binary_data_size.")
        if binary:
            raise Malformed(f"{len(binary)} bytes after the JSON belong to no input.")
        if missing := self.inputs.keys() - inputs.keys():
            raise Malformed(f"The request lacks the inputs {', '.join(sorted(missing))}.")
        if len({len(values) for values in inputs.values()}) > 1:
            raise Malformed("The inputs differ in their number of rows.")
        return inputs

    def _read_row(self, body: memoryview) -> Tensors:
        """Return the inputs of a raw binary request, whose body is one row of the only input."""
        if len(self.inputs) > 1:
            raise Malformed(f"A body without JSON needs a model with one input; {self.name!r} has {len(self.inputs)}.")
        return {name: expected.row_from_bytes(body) for name, expected in self.inputs.items()}

    def _choose_outputs(self, requested: Sequence[RequestedOutput] | None, binary: bool) -> Sequence[ResponseOutput]:
        """Return the outputs of the response: the requested ones in their order, or all if none is requested.

        Args:
            requested: what the request names.
            binary: whether outputs are binary data unless the request says otherwise.
        """
        if not requested:
            return self._all_outputs[binary]
        chosen: dict[str, ResponseOutput] = {}
        for each in requested:
            if (output := self.outputs.get(each.name)) is None or each.name in chosen:
                raise Malformed(f"The outputs are {', '.join(self.outputs)}, each once; not {each.name!r}.")
            parameters = each.parameters or _NO_OUTPUT_PARAMETERS
            if parameters.shared_memory_region:
                raise Malformed(f"Output {each.name!r}: shared memory is not supported.")
            own = binary if parameters.binary_data is None else parameters.binary_data
            chosen[each.name] = ResponseOutput(output, own, parameters.classification or 0)
        return list(chosen.values())


def _write_output(requested: ResponseOutput, values: Array) -> tuple[OutputTensor, bytes | None]:
    """Return an output as it stands in the JSON, and its binary data if it is not in the JSON."""
    output = requested.output
    datatype, shape, strings = output.datatype, values.shape, None
    if requested.classes:
        strings = output.classify(values, requested.classes)
        datatype, shape = "BYTES", (len(values), len(strings) // len(values))
    if not requested.binary:
        return OutputTensor(output.name, datatype, shape, values.ravel().tolist() if strings is None else strings), None
    chunk = output.to_bytes(values) if strings is None else strings_to_bytes(strings)
    return OutputTensor(output.name, datatype, shape, parameters=OutputTensorParameters(len(chunk))), chunk


def _json_size(header: str, size: int) -> int:
    if not header:
        return size
    if not (header.isascii() and header.isdigit() and len(header) < 10 and int(header) <= size):
        raise Malformed(f"{JSON_LENGTH} must be a number from 0 to {size}, the length of the body; not {header!r}.")
    return int(header)
