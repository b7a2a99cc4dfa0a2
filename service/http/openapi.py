"""`GET /docs.json`: the OpenAPI document of all that the front door serves, made from the predictors' schemas; and `/`,
the page on which it can be tried. BentoML's own page is not used: it reports its visitors to a third party.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.engine.card import Card
from service.http.messages import JSON, Reply
from service.http.operations import BYTES, KEYED, SCHEMAS, TEXT, Document, content, operation, parameter, reference
from service.http.problems import MEDIA_TYPE as PROBLEM
from service.http.tasks import MULTIPART, TaskEndpoint
from service.http.v2.openapi import tensor_paths, tensor_schemas

_PROBLEM = content(PROBLEM, reference("Problem"))
_TASK_ERRORS = (400, 401, 404, 405, 413, 415, 422, 429, 503, 504)

_PROBLEM_SCHEMA: Document = {
    "type": "object",
    "description": "An error, as RFC 9457 has it.",
    "required": ["type", "title", "status", "detail", "request_id"],
    "properties": {
        "type": TEXT,
        "title": TEXT,
        "status": {"type": "integer"},
        "detail": TEXT,
        "request_id": TEXT,
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["loc", "msg"],
                "properties": {
                    "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "msg": TEXT,
                },
            },
        },
    },
}


def api_page() -> Reply:
    """The interactive page: Swagger UI, which BentoML brings, and nothing from anywhere else."""
    page = Path(__file__).with_name("api_page.html").read_text()
    script = page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'self'; script-src 'self' 'sha256-{digest}'; style-src 'self' 'unsafe-inline'; img-src data:"
    return Reply(page.encode(), "text/html; charset=utf-8", headers={"Content-Security-Policy": policy})


def openapi(tasks: Sequence[TaskEndpoint]) -> Reply:
    """The document, OpenAPI 3.1."""
    models: list[type[BaseModel]] = [Card]
    for task in tasks:
        models += [task.predictor.Request, task.predictor.Answer]
    _, schemas = models_json_schema([(model, "validation") for model in models], ref_template=SCHEMAS + "{model}")
    document = {
        "openapi": "3.1.0",
        "info": {"title": "deepserve", "version": "1", "description": "Four classic neural networks, served."},
        "paths": {
            **{task.route: {"post": _task(task)} for task in tasks},
            "/v1/models": {"get": _get("The models and the states of their versions.")},
            "/v1/models/{name}": {
                "get": _get("One model and the card of the version that answers by default.", "name")
            },
            "/v1/models/{name}/versions/{version}": {
                "get": _get("One version of a model, with its card.", "name", "version")
            },
            "/livez": {"get": _get("The process can answer.", media_type="text/plain", errors=(405,))},
            "/healthz": {"get": _get("The process can answer.", media_type="text/plain", errors=(405,))},
            "/readyz": {"get": _get("Every model is loaded and warm.", media_type="text/plain", errors=(405, 503))},
            "/metrics": {"get": _get("Prometheus metrics.", media_type="text/plain", errors=(405,))},
            **tensor_paths(),
        },
        "components": {
            "schemas": {**schemas["$defs"], **tensor_schemas(), "Problem": _PROBLEM_SCHEMA},
            "securitySchemes": {name: {"type": "http", "scheme": "bearer"} for name in ("key", "admin")},
        },
        "security": [{}, {"key": []}],
    }
    return Reply(json.dumps(document).encode())


def _task(task: TaskEndpoint) -> Document:
    predictor = task.predictor
    body = content(JSON, reference(predictor.Request.__name__))
    if predictor.files_field is not None:
        files = {"type": "array", "items": BYTES}
        body |= content(MULTIPART, {"type": "object", "properties": {predictor.files_field: files}})
        body |= content("image/*", BYTES)
    answer = content(JSON, reference(predictor.Answer.__name__))
    for picture in (each for each in predictor.media_types if each != JSON):
        answer |= content(picture, BYTES)
    described = operation((predictor.__doc__ or "").splitlines()[0], (), answer, _TASK_ERRORS, _PROBLEM)
    return described | {
        "operationId": predictor.name,
        "parameters": [
            parameter("version", "query", TEXT, "Model version; without it the newest that is ready and not on trial."),
            parameter("X-Request-Timeout", "header", {"type": "number"}, "Seconds after which the answer is useless."),
            parameter("X-Request-ID", "header", TEXT, "Comes back with the answer."),
        ],
        "requestBody": {"required": bool(predictor.Request.model_json_schema().get("required")), "content": body},
    }


def _get(summary: str, *names: str, media_type: str = JSON, errors: tuple[int, ...] = KEYED) -> Document:
    """A GET operation, its path's parameters being `names`."""
    errors = (*errors, 404) if names else errors
    return operation(summary, names, {media_type: {}}, errors, _PROBLEM)
