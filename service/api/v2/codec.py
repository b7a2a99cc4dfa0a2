"""An inference request of the Open Inference Protocol taken apart, and its answer put together: JSON, and behind it the
bytes of those tensors that are not in it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from service.api.body import without_bom
from service.api.messages import HttpResponse
from service.api.v2.schema import (
    InferParameters,
    InferRequest,
    InputParameters,
    InputTensor,
    OutputParameters,
    decode_request,
)
from service.api.v2.tensors import InputForm, OutputForm, strings_to_bytes
from service.errors import Malformed, TooLarge
from service.registry.card import Card
from service.tasks.base import MAX_ITEMS
from service.tensors import Array, Tensors

JSON_LENGTH = "Inference-Header-Content-Length"
"""The header that says how many of a body's bytes are JSON, where not all are."""

NUMBER_BYTES = 32
"""Most bytes that a number may take in JSON, on an average, the space around it included."""
STRUCTURE_BYTES = 65536
"""Most bytes of a request's JSON beside its numbers."""

_NO_PARAMETERS, _NO_INPUT_PARAMETERS, _NO_OUTPUT_PARAMETERS = InferParameters(), InputParameters(), OutputParameters()


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that an answer has."""

    form: OutputForm
    binary: bool
    classes: int
    """How many of the highest elements of a row, instead of all; 0 for all."""


class TensorModel:
    """What a version of a model takes and gives."""

    def __init__(self, card: Card, longest: int, bounds: Mapping[str, tuple[int, int]]) -> None:
        """By its card.

        Args:
            card: of the version.
            longest: most elements of a free dimension that is not the first.
            bounds: least and greatest value of the inputs that have them.
        """
        self.name, self.version = card.name, card.version
        self.inputs = {spec.name: InputForm(spec, longest, bounds.get(spec.name)) for spec in card.inputs}
        self.outputs = {
            spec.name: OutputForm(spec, card.classes if spec.name == card.scores else ()) for spec in card.outputs
        }
        self.every_output = {
            binary: [Wanted(form, binary, 0) for form in self.outputs.values()] for binary in (True, False)
        }
        """All outputs, by whether they are binary."""
        self.most_json = STRUCTURE_BYTES + NUMBER_BYTES * sum(form.most_elements for form in self.inputs.values())
        """Bytes. Parsing holds up every other request, in a thread too, and no request needs more."""


@dataclass(slots=True)
class Inference:
    """What a request wants."""

    inputs: Tensors
    outputs: Sequence[Wanted]
    id: str
    """Of the response."""
    timeout: float = math.inf
    """Seconds."""


def read(body: bytes, json_length: str, model: TensorModel, request_id: str) -> Inference:
    """Parse an inference request for a model.

    Args:
        body: JSON, and behind it the bytes of those inputs that have a `binary_data_size`, in their order.
        json_length: the header `Inference-Header-Content-Length`: how much of the body is JSON; empty if all of it is,
            0 if the body is nothing but one row of the only input.
        model: which is asked.
        request_id: the id of the response if the client gives none.

    Raises:
        Malformed: it is not that, or not what the model takes.
        TooLarge: its JSON is longer than the most rows can be.
    """
    size = _json_size(json_length, len(body))
    if size == 0 and json_length:
        return Inference(_row(body, model), model.every_output[True], request_id)
    if size > model.most_json:
        raise TooLarge(f"The JSON may have at most {model.most_json:,} bytes: {MAX_ITEMS} rows do not take more.")
    content = memoryview(body)
    request = decode_request(without_bom(content[:size]))
    inputs = _inputs(request.inputs, content[size:], model)
    parameters = request.parameters or _NO_PARAMETERS
    timeout = parameters.timeout / 1e6 if parameters.timeout else math.inf
    outputs = _outputs(request, model, binary=bool(parameters.binary_data_output))
    return Inference(inputs, outputs, request.id or request_id, timeout)


def answer(inference: Inference, outputs: Tensors, model: TensorModel) -> HttpResponse:
    """The answer to `inference` for the outputs of the model."""
    rendered = [_rendered(wanted, outputs[wanted.form.name]) for wanted in inference.outputs]
    content: dict[str, Any] = {
        "model_name": model.name,
        "model_version": model.version,
        "outputs": [tensor for tensor, _ in rendered],
        "id": inference.id,
    }
    text = msgspec.json.encode(content)
    chunks = [chunk for _, chunk in rendered if chunk is not None]
    if not chunks:
        return HttpResponse(text)
    return HttpResponse(b"".join([text, *chunks]), "application/octet-stream", headers={JSON_LENGTH: str(len(text))})


def _rendered(wanted: Wanted, values: Array) -> tuple[dict[str, Any], bytes | None]:
    """An output as the answer's JSON has it, and its bytes if they are to stand behind the JSON."""
    form = wanted.form
    tensor: dict[str, Any] = {"name": form.name, "datatype": form.datatype, "shape": values.shape}
    strings: list[str] | None = None
    if wanted.classes:
        strings = form.classify(values, wanted.classes)
        tensor |= {"datatype": "BYTES", "shape": [len(values), len(strings) // len(values)]}
    if not wanted.binary:
        tensor["data"] = values.ravel().tolist() if strings is None else strings
        return tensor, None
    chunk = form.to_bytes(values) if strings is None else strings_to_bytes(strings)
    tensor["parameters"] = {"binary_data_size": len(chunk)}
    return tensor, chunk


def _json_size(header: str, size: int) -> int:
    if not header:
        return size
    if not (header.isascii() and header.isdigit() and len(header) < 10 and int(header) <= size):
        raise Malformed(f"{JSON_LENGTH} is a number from 0 to {size}, the length of the body; not {header!r}.")
    return int(header)


def _inputs(tensors: Sequence[InputTensor], rest: memoryview, model: TensorModel) -> Tensors:
    """The model's inputs, each once; `rest` are the bytes behind the JSON."""
    inputs: dict[str, Array] = {}
    for tensor in tensors:
        if (form := model.inputs.get(tensor.name)) is None or tensor.name in inputs:
            raise Malformed(f"The inputs are {', '.join(model.inputs)}, each once; not {tensor.name!r}.")
        form.check(tensor.datatype, tensor.shape)
        parameters = tensor.parameters or _NO_INPUT_PARAMETERS
        if parameters.shared_memory_region:
            raise Malformed(f"Input {tensor.name!r}: shared memory is not supported.")
        size, data = parameters.binary_data_size, tensor.elements
        if (size is None) == (data is None):
            raise Malformed(f"Input {tensor.name!r} needs one of data and binary_data_size.")
        if isinstance(data, list):
            inputs[tensor.name] = form.from_numbers(data, tensor.shape)
        elif isinstance(data, msgspec.Raw):
            inputs[tensor.name] = form.from_json(data, tensor.shape)
        else:
            inputs[tensor.name] = form.from_bytes(rest[:size], tensor.shape)
            rest = rest[size:]
    if rest:
        raise Malformed(f"{len(rest)} bytes behind the JSON belong to no input.")
    if missing := model.inputs.keys() - inputs.keys():
        raise Malformed(f"The request lacks the inputs {', '.join(sorted(missing))}.")
    if len({len(values) for values in inputs.values()}) > 1:
        raise Malformed("The inputs differ in their number of rows.")
    return inputs


def _outputs(request: InferRequest, model: TensorModel, *, binary: bool) -> Sequence[Wanted]:
    """Return the outputs of the response: all, or those that the request names, in its order.

    Args:
        request: the request.
        model: which is asked.
        binary: whether outputs are binary data unless the request says otherwise.
    """
    if not request.outputs:
        return model.every_output[binary]
    wanted: dict[str, Wanted] = {}
    for output in request.outputs:
        if (form := model.outputs.get(output.name)) is None or output.name in wanted:
            raise Malformed(f"The outputs are {', '.join(model.outputs)}, each once; not {output.name!r}.")
        parameters = output.parameters or _NO_OUTPUT_PARAMETERS
        if parameters.shared_memory_region:
            raise Malformed(f"Output {output.name!r}: shared memory is not supported.")
        chosen = binary if parameters.binary_data is None else parameters.binary_data
        wanted[output.name] = Wanted(form, chosen, parameters.classification or 0)
    return list(wanted.values())


def _row(body: bytes, model: TensorModel) -> Tensors:
    """The body of a raw binary request: one row of the only input."""
    if len(model.inputs) > 1:
        raise Malformed(f"A body without JSON is for models of one input; {model.name!r} has {len(model.inputs)}.")
    [(name, form)] = model.inputs.items()
    shape = form.shape_of_row(len(body))
    form.check(form.datatype, shape)
    return {name: form.from_bytes(memoryview(body), shape)}
