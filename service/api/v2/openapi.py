"""The part of the OpenAPI document that describes the Open Inference Protocol and its extensions."""

from typing import Any

import msgspec

from service.api.messages import JSON
from service.api.operations import (
    BYTES,
    KEYED,
    PUBLIC,
    SCHEMAS,
    TEXT,
    Document,
    content,
    operation,
    parameter,
    reference,
    request_headers,
)
from service.api.v2 import metadata
from service.api.v2.codec import JSON_LENGTH
from service.api.v2.configuration import ModelConfiguration
from service.api.v2.repository import IndexRequest, LoadRequest, UnloadRequest
from service.api.v2.schema import InferRequest
from service.api.v2.statistics import ModelStatistics
from service.api.v2.tensors import DATATYPES
from service.api.v2.unsupported import SETTINGS, SHARED_MEMORY, SharedMemoryRegion
from service.tasks.base import MAX_ITEMS

_TAG = "v2"
_BINARY = "application/octet-stream"
_OF_MODEL = (*KEYED, 404, 503)
_INFER = (*_OF_MODEL, 400, 413, 415, 429)
_CHANGE = (*_OF_MODEL, 400, 413)

_STRUCTS = (
    *(InferRequest, IndexRequest, LoadRequest, UnloadRequest, ModelConfiguration, ModelStatistics, SharedMemoryRegion),
    *(metadata.Live, metadata.Ready, metadata.ModelReady, metadata.ServerMetadata, metadata.ModelList),
    *(metadata.ModelMetadata, metadata.IndexEntry),
)

_DATATYPE: Document = {"type": "string", "enum": [*DATATYPES.values()]}
_SIZE: Document = {"type": "integer", "minimum": 0}
_OUTPUT: Document = {
    "type": "object",
    "description": "An output tensor.",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": TEXT,
        "datatype": {"type": "string", "enum": [*DATATYPES.values(), "BYTES"]},
        "shape": {"type": "array", "items": _SIZE},
        "data": {
            "type": "array",
            "items": {},
            "description": "The elements in row-major order: numbers, or strings if the datatype is BYTES.",
        },
        "parameters": {
            "type": "object",
            "properties": {
                "binary_data_size": _SIZE | {"description": "Size in bytes, in the binary data after the JSON."}
            },
        },
    },
}
_RESPONSE: Document = {
    "type": "object",
    "description": "The outputs of a model.",
    "required": ["model_name", "model_version", "id", "outputs"],
    "properties": {
        "model_name": TEXT,
        "model_version": TEXT,
        "id": TEXT | {"description": "Of the request; its X-Request-ID if it had no id."},
        "outputs": {"type": "array", "items": reference("OutputTensor")},
    },
}
_ERROR: Document = {
    "type": "object",
    "description": "An error of the Open Inference Protocol.",
    "required": ["error"],
    "properties": {"error": TEXT},
}
_DONE: Document = {"type": "object", "description": "Nothing: the operation has succeeded."}


def tensor_schemas() -> Document:
    """Return the schemas that the paths refer to."""
    _, schemas = msgspec.json.schema_components(_STRUCTS, ref_template=SCHEMAS + "{name}")
    inputs = schemas["InputTensor"]["properties"]
    inputs["datatype"] = _DATATYPE
    inputs["shape"] |= {"minItems": 1, "items": {"type": "integer", "minimum": 1}}
    inputs["shape"]["description"] = f"The first size is the number of rows, 1 to {MAX_ITEMS}."
    # Typed as a number, an element would come as 7.0 for 7 from some clients, and a tensor of integers refuses it.
    inputs["data"] = {
        "anyOf": [{"type": "array", "items": {}}, {"type": "null"}],
        "description": "The elements, numbers in row-major order: in a flat list, or in lists of lists.",
    }
    return {
        **schemas,
        "InferResponse": _RESPONSE,
        "OutputTensor": _OUTPUT,
        "V2Error": _ERROR,
        "Done": _DONE,
    }


def tensor_paths() -> Document:
    """Return the paths under `/v2`."""
    server = _get("v2_server_metadata", "The server and its extensions.", "ServerMetadata")
    live = _get("v2_server_live", "Whether the process can answer.", "Live", errors=(405,))
    ready = _get("v2_server_ready", "Whether every model is loaded and warm.", "Ready", errors=(405, 503))
    for health in (live, ready):
        health["get"]["security"] = PUBLIC
    return {
        "/v2": server,
        "/v2/health/live": live,
        "/v2/health/ready": ready,
        "/v2/models": _get("v2_list_models", "The names of the models.", "ModelList"),
        "/v2/models/stats": _get("v2_statistics", "What every model has done.", "ModelStatistics"),
        **_of_model("/v2/models/{name}", "v2_model", "name"),
        **_of_model("/v2/models/{name}/versions/{version}", "v2_version", "name", "version"),
        **_repository(),
        **_unsupported(),
    }


def _of_model(path: str, prefix: str, *names: str) -> Document:
    """Return the paths of a model, or of a version of it, whose operations have names with `prefix`."""
    details: dict[str, Any] = {"names": names, "errors": _OF_MODEL}
    infer = _operation(f"{prefix}_infer", "Tensors in, tensors out.", reference("InferResponse"), names, _INFER)
    infer["requestBody"] = _body("InferRequest", required=True)
    infer["parameters"] += [
        *request_headers(),
        parameter(JSON_LENGTH, "header", _SIZE, "How many bytes of the body are JSON; the rest is binary data."),
        parameter(
            "Content-Encoding",
            "header",
            {"type": "string", "enum": ["gzip", "deflate", "identity"]},
            "How the body is compressed.",
        ),
    ]
    for body in (infer["requestBody"], infer["responses"]["200"]):
        body["content"] |= content(_BINARY, BYTES)
    return {
        path: _get(f"{prefix}_metadata", "Its inputs, outputs and ready versions.", "ModelMetadata", **details),
        f"{path}/ready": _get(f"{prefix}_ready", "Whether it is ready.", "ModelReady", **details),
        f"{path}/config": _get(f"{prefix}_config", "Its configuration, as in Triton.", "ModelConfiguration", **details),
        f"{path}/stats": _get(f"{prefix}_statistics", "What it has done.", "ModelStatistics", **details),
        f"{path}/infer": {"post": infer},
    }


def _repository() -> Document:
    """Return the paths of the model repository extension."""
    entries = {"type": "array", "items": reference("IndexEntry")}
    index = _operation(
        "v2_repository_index", "Every version of every model and its state.", entries, (), (*KEYED, 400, 413)
    )
    index["requestBody"] = _body("IndexRequest")
    paths = {"/v2/repository/index": {"post": index}}
    for change, schema, summary in (
        ("load", "LoadRequest", "Load a model, or reload what has changed of it, in every worker."),
        ("unload", "UnloadRequest", "Take a model out of service, in every worker."),
    ):
        described = _operation(f"v2_repository_{change}", summary, reference("Done"), ("name",), _CHANGE)
        described |= {"requestBody": _body(schema), "security": [{"admin": []}]}
        paths[f"/v2/repository/models/{{name}}/{change}"] = {"post": described}
    return paths


def _unsupported() -> Document:
    """Return the paths of the extensions that the server does not have."""
    paths = {}
    regions = {"type": "array", "items": reference("SharedMemoryRegion")}
    done = reference("Done")
    for kind in SHARED_MEMORY:
        name = "v2_" + kind.replace("sharedmemory", "_shared_memory")
        every, one = f"/v2/{kind}", f"/v2/{kind}/region/{{region}}"
        region: Document = {"names": ("region",), "errors": (*KEYED, 400, 404)}
        for path, method, verb, schema, details in (
            (f"{every}/status", "get", "status", regions, {}),
            (f"{every}/unregister", "post", "unregister_all", done, {}),
            (f"{one}/status", "get", "region_status", regions, region),
            (f"{one}/register", "post", "register", done, region),
            (f"{one}/unregister", "post", "unregister", done, region),
        ):
            summary = "Shared memory is not supported: there are no regions."
            paths[path] = {method: _operation(f"{name}_{verb}", summary, schema, **details)}
    for path, reason in SETTINGS.items():
        names = ("name",) if "{name}" in path else ()
        subject = "log" if path.endswith("logging") else "model_trace" if names else "trace"
        paths[path] = {
            method: _operation(f"v2_{verb}_{subject}_settings", reason, done, names, (*KEYED, 400))
            for method, verb in (("get", "get"), ("post", "update"))
        }
    return paths


def _get(operation_id: str, summary: str, schema: str, **details: Any) -> Document:
    """Return a path that answers GET."""
    return {"get": _operation(operation_id, summary, reference(schema), **details)}


def _operation(
    operation_id: str, summary: str, schema: Document, names: tuple[str, ...] = (), errors: tuple[int, ...] = KEYED
) -> Document:
    """Return an operation that answers JSON of a schema."""
    error = content(JSON, reference("V2Error"))
    return operation(operation_id, _TAG, summary, answer=content(JSON, schema), errors=errors, error=error, names=names)


def _body(schema: str, *, required: bool = False) -> Document:
    return {"required": required, "content": content(JSON, reference(schema))}
