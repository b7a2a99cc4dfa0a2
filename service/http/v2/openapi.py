"""The part of the OpenAPI document that describes the Open Inference Protocol."""

import msgspec

from service.http.messages import JSON
from service.http.operations import BYTES, KEYED, SCHEMAS, TEXT, Document, content, operation, parameter, reference
from service.http.v2.body import JSON_LENGTH
from service.http.v2.repository import IndexRequest, LoadRequest, UnloadRequest
from service.http.v2.request import InferRequest

_BINARY = "application/octet-stream"
_OF_MODEL = (*KEYED, 404, 503)
_INFER = (*_OF_MODEL, 400, 413, 415, 429)
_CHANGE = (*_OF_MODEL, 400, 413)

_TENSOR: Document = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": TEXT,
        "datatype": TEXT,
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {"type": "array", "items": {"type": ["number", "string"]}},
        "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer"}}},
    },
}
_ANSWER: Document = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": TEXT,
        "model_version": TEXT,
        "id": TEXT,
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_ERROR: Document = {"type": "object", "required": ["error"], "properties": {"error": TEXT}}
_FAILURE = content(JSON, reference("TensorError"))


def tensor_schemas() -> Document:
    """What the paths refer to."""
    _, requests = msgspec.json.schema_components(
        [InferRequest, IndexRequest, LoadRequest, UnloadRequest], ref_template=SCHEMAS + "{name}"
    )
    numbers = requests["InputTensor"]["properties"]["data"]["items"]
    nested = {"type": "array", "items": {}}
    requests["InputTensor"]["properties"]["data"]["items"] = {"anyOf": [*numbers["anyOf"], nested]}
    return {**requests, "InferAnswer": _ANSWER, "TensorError": _ERROR}


def tensor_paths() -> Document:
    """The paths under `/v2`."""
    live = _operation("The process can answer.", errors=(405,))
    ready = _operation("Every model is loaded and warm.", errors=(405, 503))
    index = _operation("Every version of every model and its state.", body="IndexRequest", errors=(400, 413, *KEYED))
    load, unload = (
        _operation(summary, ("name",), body, errors=_CHANGE)
        for summary, body in (
            ("Loads a model, or what has changed of it, in every worker.", "LoadRequest"),
            ("Takes a model out of service, in every worker.", "UnloadRequest"),
        )
    )
    for change in (load, unload):
        change["security"] = [{"admin": []}]
    return {
        "/v2": {"get": _operation("The server and the extensions that it has.")},
        "/v2/health/live": {"get": live},
        "/v2/health/ready": {"get": ready},
        "/v2/models/stats": {"get": _operation("What every model has done.")},
        "/v2/repository/index": {"post": index},
        "/v2/repository/models/{name}/load": {"post": load},
        "/v2/repository/models/{name}/unload": {"post": unload},
        **_of_model("/v2/models/{name}", "name"),
        **_of_model("/v2/models/{name}/versions/{version}", "name", "version"),
    }


def _of_model(path: str, *names: str) -> Document:
    infer = _operation("Tensors in, tensors out.", names, "InferRequest", "InferAnswer", _INFER)
    infer["parameters"] += [
        parameter(
            JSON_LENGTH,
            "header",
            {"type": "integer", "minimum": 0},
            "How many of the body's bytes are JSON, where tensors stand behind it.",
        ),
        parameter("Content-Encoding", "header", {"enum": ["gzip", "deflate", "identity"]}),
    ]
    for body in (infer["requestBody"], infer["responses"]["200"]):
        body["content"] |= content(_BINARY, BYTES)
    return {
        path: {"get": _operation("Its inputs, outputs and versions.", names, errors=_OF_MODEL)},
        f"{path}/ready": {"get": _operation("It can be asked.", names, errors=_OF_MODEL)},
        f"{path}/config": {"get": _operation("Its configuration, as Triton has it.", names, errors=_OF_MODEL)},
        f"{path}/stats": {"get": _operation("What it has done, as Triton has it.", names, errors=_OF_MODEL)},
        f"{path}/infer": {"post": infer},
    }


def _operation(
    summary: str,
    names: tuple[str, ...] = (),
    body: str | None = None,
    answer: str | None = None,
    errors: tuple[int, ...] = KEYED,
) -> Document:
    """An operation whose path has parameters `names`, and whose body and answer are schemas of those names."""
    described = operation(summary, names, content(JSON, {} if answer is None else reference(answer)), errors, _FAILURE)
    if body is not None:
        described["requestBody"] = {"required": body == "InferRequest", "content": content(JSON, reference(body))}
    return described | {"tags": ["tensors"]}
