"""`GET /docs.json`: the OpenAPI document of everything that is served, for people and for code generators; and `/`, the
page on which it can be tried. BentoML's own page is not used: it reports its visitors to a third party.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic.json_schema import JsonSchemaMode, models_json_schema

from service.api.messages import JSON, HttpResponse
from service.api.models import ModelDetails, ModelSummaries, VersionDetails
from service.api.operations import (
    BYTES,
    KEYED,
    NUMBER,
    PUBLIC,
    SCHEMAS,
    TEXT,
    Document,
    add_formats,
    content,
    header,
    operation,
    parameter,
    reference,
    request_headers,
)
from service.api.problem import MEDIA_TYPE as PROBLEM
from service.api.tasks import MULTIPART, TaskEndpoint
from service.api.v2.openapi import tensor_paths, tensor_schemas
from service.tasks.base import MAX_ITEMS

_PROBLEM = content(PROBLEM, reference("Problem"))
_TASK_ERRORS = (400, 401, 404, 405, 413, 415, 422, 429, 503, 504)

_PROBLEM_SCHEMA: Document = {
    "type": "object",
    "description": "An error (RFC 9457).",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": TEXT,
        "title": TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": TEXT,
        "request_id": TEXT,
        "errors": {"type": "array", "items": reference("Fault")},
    },
}
_FAULT_SCHEMA: Document = {
    "type": "object",
    "description": "One thing that is wrong with a request.",
    "required": ["loc", "msg"],
    "properties": {
        "loc": {
            "type": "array",
            "items": {"anyOf": [TEXT, {"type": "integer"}]},
            "description": "Where it is: the names of fields and the indices of items.",
        },
        "msg": TEXT,
    },
}


def api_page() -> HttpResponse:
    """The interactive page: Swagger UI, which BentoML brings, and nothing from anywhere else."""
    page = Path(__file__).with_name("api_page.html").read_text()
    script = page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'self'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; img-src data:"
    return HttpResponse(page.encode(), "text/html; charset=utf-8", headers={"Content-Security-Policy": policy})


def openapi(tasks: Sequence[TaskEndpoint]) -> HttpResponse:
    """Return the document, OpenAPI 3.1."""
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "deepserve",
            "version": "1",
            "description": "Four classic neural networks, served.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {
            **{task.route: {"post": _task(task)} for task in tasks},
            **_catalogue_paths(),
            **_operations_paths(),
            **tensor_paths(),
        },
        "components": {
            "schemas": {
                **_model_schemas(tasks),
                **tensor_schemas(),
                "Problem": _PROBLEM_SCHEMA,
                "Fault": _FAULT_SCHEMA,
            },
            "securitySchemes": {name: {"type": "http", "scheme": "bearer"} for name in ("key", "admin")},
        },
        "security": [{}, {"key": []}],
    }
    document = json.loads(json.dumps(document))  # so that no two places share an object
    add_formats(document)
    return HttpResponse(json.dumps(document).encode())


def _model_schemas(tasks: Sequence[TaskEndpoint]) -> Document:
    """Return the schemas of the bodies of the tasks and of the catalogue."""
    requests: list[tuple[Any, JsonSchemaMode]] = [(task.task.Request, "validation") for task in tasks]
    answers: list[Any] = [*(task.task.Response for task in tasks), ModelSummaries, ModelDetails, VersionDetails]
    _, schemas = models_json_schema(
        [*requests, *((answer, "serialization") for answer in answers)], ref_template=SCHEMAS + "{model}"
    )
    found: Document = schemas["$defs"]
    return found


def _task(task: TaskEndpoint) -> Document:
    """Return the operation of a task."""
    predictor = task.task
    answer = content(JSON, reference(predictor.Response.__name__))
    for picture in (each for each in predictor.media_types if each != JSON):
        answer |= content(picture, BYTES)
    summary = (predictor.__doc__ or "").partition("\n")[0]
    described = operation(predictor.name, "tasks", summary, answer=answer, errors=_TASK_ERRORS, error=_PROBLEM)
    described["responses"]["200"]["headers"] |= header("X-Model-Version", NUMBER, "The version that answers.")
    about_version = "A version of the model; by default the newest that is ready and not on trial."
    described["parameters"] = [parameter("version", "query", NUMBER, about_version), *request_headers()]
    if len(predictor.media_types) > 1:
        default, *others = predictor.media_types
        described["description"] = f"The response is {default}, or what `Accept` asks for: {', '.join(others)}."
    required = bool(predictor.Request.model_json_schema().get("required"))
    return described | {"requestBody": {"required": required, "content": _request_content(task)}}


def _request_content(task: TaskEndpoint) -> Document:
    """Return the bodies that a task takes."""
    body = content(JSON, reference(task.task.Request.__name__))
    if (field := task.task.files_field) is not None:
        files = {"type": "array", "items": BYTES, "minItems": 1, "maxItems": MAX_ITEMS}
        body |= content(MULTIPART, {"type": "object", "required": [field], "properties": {field: files}})
        body |= content("image/*", BYTES)
    return body


def _catalogue_paths() -> Document:
    """Return the paths under `/v1/models`."""
    found = (*KEYED, 404)
    return {
        "/v1/models": _get(
            "list_models", "models", "The models and their versions.", _json("ModelSummaries"), errors=KEYED
        ),
        "/v1/models/{name}": _get(
            "get_model",
            "models",
            "A model, and the card of the version that answers by default.",
            _json("ModelDetails"),
            names=("name",),
            errors=found,
        ),
        "/v1/models/{name}/versions/{version}": _get(
            "get_version",
            "models",
            "A version of a model, and its card.",
            _json("VersionDetails"),
            names=("name", "version"),
            errors=found,
        ),
    }


def _operations_paths() -> Document:
    """Return the paths of operations and of the documentation."""
    text, page = content("text/plain", TEXT), content("text/html", TEXT)
    described = {
        "/livez": ("get_livez", "Whether the process can answer.", text),
        "/healthz": ("get_healthz", "Whether the process can answer.", text),
        "/readyz": ("get_readyz", "Whether every model is loaded and warm.", text),
        "/metrics": ("get_metrics", "Prometheus metrics, as text or, if asked for, as OpenMetrics.", text),
        "/docs.json": ("get_openapi", "This document.", content(JSON, {"type": "object"})),
        "/": ("get_api_page", "The interactive API page.", page),
    }
    paths = {}
    for path, (operation_id, summary, answer) in described.items():
        errors = (405, 503) if path == "/readyz" else (405,)
        paths[path] = _get(operation_id, "operations", summary, answer, errors=errors)
        paths[path]["get"]["security"] = PUBLIC
    return paths


def _json(schema: str) -> Document:
    return content(JSON, reference(schema))


def _get(operation_id: str, tag: str, summary: str, answer: Document, **details: Any) -> Document:
    """Return a path that answers GET."""
    return {"get": operation(operation_id, tag, summary, answer=answer, error=_PROBLEM, **details)}
