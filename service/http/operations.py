"""Operations as an OpenAPI document has them: what both halves of ours, the tasks and the tensors, are made of."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

Document = dict[str, Any]

SCHEMAS = "#/components/schemas/"
"""Where they stand in the document."""

KEYED = (401, 405, 422, 504)
"""What may become of any request that takes a key."""

TEXT: Document = {"type": "string"}
BYTES: Document = {"type": "string", "format": "binary"}


def reference(schema: str) -> Document:
    """What stands for a schema of the document."""
    return {"$ref": SCHEMAS + schema}


def content(media_type: str, schema: Document) -> Document:
    """A body of one type."""
    return {media_type: {"schema": schema}}


def parameter(name: str, place: str, schema: Document, about: str = "", *, required: bool = False) -> Document:
    """A parameter in the path, the query or a header."""
    return {"name": name, "in": place, "schema": schema, "description": about, "required": required}


def operation(summary: str, names: Sequence[str], answer: Document, errors: Sequence[int], error: Document) -> Document:
    """An operation.

    Args:
        summary: what it does.
        names: the parameters of its path.
        answer: the content of a 200.
        errors: the other statuses.
        error: their content.
    """
    failures = {str(status): {"description": HTTPStatus(status).phrase, "content": error} for status in sorted(errors)}
    return {
        "summary": summary,
        "parameters": [parameter(name, "path", TEXT, required=True) for name in names],
        "responses": {"200": {"description": HTTPStatus.OK.phrase, "content": answer}, **failures},
    }
