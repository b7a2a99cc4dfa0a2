"""The Open Inference Protocol (V2) over REST: tensors in, tensors out, on the same batchers as the task endpoints.

For clients that exist: `tritonclient.http`, `kserve`. What the protocol leaves open is answered as Triton does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from service.call import Call
from service.engine.batching import Batcher, Tensors
from service.engine.card import Card
from service.errors import Malformed, ServiceError
from service.http.bodies import read_body
from service.http.messages import HttpRequest, Reply, Route
from service.http.tensors import DATATYPES, Array, Number, TensorForm
from service.settings import Settings


class InputTensor(msgspec.Struct):
    """An input as a request names it."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Number] | None = None
    parameters: dict[str, Any] = {}


class RequestedOutput(msgspec.Struct):
    """An output that a request asks for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """The JSON of a request."""

    inputs: list[InputTensor]
    outputs: list[RequestedOutput] = []
    id: str | None = None
    parameters: dict[str, Any] = {}


class NestedTensor(InputTensor):
    """One whose data are lists of lists."""

    data: list[Any] | None = None


class NestedRequest(InferRequest):
    """A request in which an input is nested."""

    inputs: list[NestedTensor]  # type: ignore[assignment]


_FLAT = msgspec.json.Decoder(InferRequest)
_NESTED = msgspec.json.Decoder(NestedRequest)


@dataclass(frozen=True)
class TensorEndpoint:
    """One version of a model, asked for tensors."""

    card: Card
    batcher: Batcher
    longest: int
    """Most elements of a dimension whose size is free."""
    forms: dict[str, TensorForm] = field(init=False)

    def __post_init__(self) -> None:
        forms = {spec.name: TensorForm(spec, self.longest) for spec in self.card.inputs}
        object.__setattr__(self, "forms", forms)


class OpenInference:
    """The routes under `/v2`."""

    def __init__(self, model: Callable[[str, str | None], TensorEndpoint], settings: Settings) -> None:
        """Serves tensors.

        Args:
            model: gives a version by model and number, the newest ready one for None.
            settings: the body limit and the deadline.
        """
        self._model = model
        self._settings = settings
        self._infer_route = Route("/v2/models/{name}/infer", {"POST": self.infer})
        self._infer_version_route = Route("/v2/models/{name}/versions/{version}/infer", {"POST": self.infer})

    def find(self, path: str) -> Route | None:
        """The route of a path that begins with `/v2`."""
        match path.split("/"):
            case ["", "v2", "models", _, "infer"]:
                return self._infer_route
            case ["", "v2", "models", _, "versions", _, "infer"]:
                return self._infer_version_route
        return None

    async def infer(self, request: HttpRequest, _call: Call) -> Reply:
        """The outputs of a model for the inputs of a request."""
        parts = request.path.split("/")
        endpoint = self._model(parts[3], parts[5] if len(parts) > 5 else None)
        body = await read_body(request.receive, request.headers.get(b"content-length"), self._settings.max_body_bytes)
        asked = _parse(body)
        outputs = await endpoint.batcher.submit(_inputs(endpoint.forms, asked.inputs))
        return _render(endpoint.card, asked.id, outputs)


def error_reply(error: ServiceError) -> Reply:
    """An error as the protocol has it."""
    return Reply(msgspec.json.encode({"error": error.detail}), status=error.status, headers=error.headers)


def _parse(body: bytes) -> InferRequest:
    """The request, numbers alone in the flat data of its inputs.

    Raises:
        Malformed: it is not JSON, or not a request.
    """
    try:
        try:
            return _FLAT.decode(body)
        except msgspec.ValidationError:  # nested data, unless something is wrong
            return _NESTED.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"The body is no inference request: {error}.") from error


def _inputs(forms: Mapping[str, TensorForm], tensors: list[InputTensor]) -> Tensors:
    """The model's inputs, which share their number of rows."""
    inputs: dict[str, Array] = {}
    for tensor in tensors:
        if (form := forms.get(tensor.name)) is None or tensor.name in inputs:
            raise Malformed(f"The model takes the inputs {', '.join(forms)}, each once; not {tensor.name!r}.")
        form.check(tensor.datatype, tensor.shape)
        if tensor.data is None:
            raise Malformed(f"Input {tensor.name!r} has no data.")
        inputs[tensor.name] = form.from_numbers(tensor.data, tensor.shape)
    if missing := forms.keys() - inputs.keys():
        raise Malformed(f"The request lacks the inputs {', '.join(sorted(missing))}.")
    if len({len(value) for value in inputs.values()}) > 1:
        raise Malformed("The inputs differ in their number of rows.")
    return inputs


def _render(card: Card, request_id: str | None, outputs: Tensors) -> Reply:
    tensors = [
        {
            "name": spec.name,
            "datatype": DATATYPES[spec.dtype],
            "shape": outputs[spec.name].shape,
            "data": outputs[spec.name].ravel().tolist(),
        }
        for spec in card.outputs
    ]
    answer: dict[str, Any] = {"model_name": card.name, "model_version": card.version, "outputs": tensors}
    if request_id is not None:
        answer["id"] = request_id
    return Reply(msgspec.json.encode(answer))
