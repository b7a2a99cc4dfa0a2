"""Calls of every operation of the OpenAPI document, with the expected status."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TENSOR = {"name": "pictures", "datatype": "UINT8", "shape": [1, 28, 28], "data": [0] * 784}
INFER = {"inputs": [TENSOR], "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}]}
CONFIG = json.dumps({"versionPolicy": {"specific": {"versions": ["1", "2"]}}})

ARGUMENTS = {"name": "digits", "version": "2", "region": "mine"}
"""Path parameters."""

STATUSES = {
    "v2_system_shared_memory_region_status": 404,
    "v2_cuda_shared_memory_region_status": 404,
    "v2_system_shared_memory_register": 400,
    "v2_cuda_shared_memory_register": 400,
    **{f"v2_{verb}_{what}_settings": 400 for verb in ("get", "update") for what in ("trace", "model_trace", "log")},
}
"""Statuses of the operations that fail."""


def bodies(picture: Path) -> dict[str, Any]:
    """Return the bodies of the operations that have one; `picture` shows a digit."""
    return {
        "digits": {"images": [base64.b64encode(picture.read_bytes()).decode()]},
        "sentiment": {"reviews": ["A wonderful film."]},
        "mammogram": {"masses": [{"age": 67, "shape": "irregular", "margin": 5}, {"age": 30, "density": None}]},
        "fashion": {"count": 2, "seed": 2**53 + 1, "label": "Coat"},
        "v2_model_infer": {**INFER, "id": "mine", "parameters": None},
        "v2_version_infer": INFER,
        "v2_repository_index": {"ready": True},
        "v2_repository_load": {"parameters": {"config": CONFIG}},
        "v2_repository_unload": {"parameters": {"unload_dependents": True}},
    }


class RequestContext(NamedTuple):
    """A call of an operation."""

    operation_id: str
    tag: str
    arguments: dict[str, str]
    schema: str
    """Media type of the body; empty if it has none."""
    body: Any
    status: int
    answer: dict[str, Any]
    """The body of the response."""


def calls(document: dict[str, Any], picture: Path) -> Iterator[RequestContext]:
    """Yield a call of every operation; the unloaded model is loaded last."""
    sent = bodies(picture)
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    for operation in sorted(operations, key=lambda each: each["operationId"] == "v2_repository_load"):
        operation_id = operation["operationId"]
        names = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        content = operation.get("requestBody", {}).get("content", {})
        reference = content.get("application/json", {}).get("schema", {}).get("$ref", "")
        assert bool(content) == (operation_id in sent), operation_id
        status = STATUSES.get(operation_id, 200)
        yield RequestContext(
            operation_id,
            operation["tags"][0],
            {name: ARGUMENTS[name] for name in names},
            reference.rpartition("/")[2],
            sent.get(operation_id),
            status,
            operation["responses"][str(status)]["content"],
        )
