"""The part of the OpenAPI document that describes the Open Inference Protocol."""

from http import HTTPStatus
from typing import Any

import msgspec

from service.http.messages import JSON
from service.http.v2.repository import IndexRequest, LoadRequest, UnloadRequest
from service.http.v2.request import InferRequest

Document = dict[str, Any]

_REFERENCE = "#/components/schemas/{name}"
_BINARY = "application/octet-stream"
_KEYED = (401, 405, 422, 504)
_OF_MODEL = (*_KEYED, 404, 503)
_INFER = (*_OF_MODEL, 400, 413, 415, 429)
_CHANGE = (*_OF_MODEL, 400, 413)

_TENSOR: Document = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {"type": "array", "items": {"type": ["number", "string"]}},
        "parameters": {"type": "object", "properties": {"binary_data_size": {"type": "integer"}}},
    },
}
_ANSWER: Document = {
    "type": "object",
    "required": ["model_name", "model_version", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _TENSOR},
    },
}
_ERROR: Document = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def tensor_schemas() -> Document:
    """What the paths refer to."""
    _, requests = msgspec.json.schema_components(
        [InferRequest, IndexRequest, LoadRequest, UnloadRequest], ref_template=_REFERENCE
    )
    numbers = requests["InputTensor"]["properties"]["data"]["items"]
    nested = {"type": "array", "items": {}}
    requests["InputTensor"]["properties"]["data"]["items"] = {"anyOf": [*numbers["anyOf"], nested]}
    return {**requests, "InferAnswer": _ANSWER, "TensorError": _ERROR}


def tensor_paths() -> Document:
    """The paths under `/v2`."""
    live = _operation("The process can answer.", errors=(405,))
    ready = _operation("Every model is loaded and warm.", errors=(405, 503))
    index = _operation("Every version of every model and its state.", body="IndexRequest", errors=(400, 413, *_KEYED))
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
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "schema": {"type": "integer", "minimum": 0},
            "description": "How many of the body's bytes are JSON, where tensors stand behind it.",
        },
        {"name": "Content-Encoding", "in": "header", "schema": {"enum": ["gzip", "deflate", "identity"]}},
    ]
    for content in (infer["requestBody"]["content"], infer["responses"]["200"]["content"]):
        content[_BINARY] = {"schema": {"type": "string", "format": "binary"}}
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
    errors: tuple[int, ...] = _KEYED,
) -> Document:
    """An operation whose path has parameters `names`, and whose body and answer are schemas of those names."""
    operation: Document = {
        "tags": ["tensors"],
        "summary": summary,
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names],
        "responses": {
            "200": {"description": "OK", "content": {JSON: {"schema": {} if answer is None else _named(answer)}}},
            **{
                str(status): {
                    "description": HTTPStatus(status).phrase,
                    "content": {JSON: {"schema": _named("TensorError")}},
                }
                for status in sorted(errors)
            },
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": body == "InferRequest", "content": {JSON: {"schema": _named(body)}}}
    return operation


def _named(schema: str) -> Document:
    return {"$ref": _REFERENCE.format(name=schema)}
