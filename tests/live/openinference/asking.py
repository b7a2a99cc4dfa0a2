"""Requests and responses of the Open Inference Protocol over plain HTTP."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.api.v2.schema import DATATYPES
from service.registry.card import Card
from service.registry.verification import GOLDEN_TOLERANCE
from tests.paths import MODELS

Tensors = dict[str, np.ndarray]
Document = dict[str, Any]

VERSIONS = sorted(path.parent for path in MODELS.glob("*/*/card.json"))
every_version = pytest.mark.parametrize("directory", VERSIONS, ids=lambda path: f"{path.parent.name}-{path.name}")

JSON_LENGTH = "Inference-Header-Content-Length"


def golden(directory: Path) -> tuple[Tensors, Tensors]:
    """Return the golden inputs of a version, and the outputs of the served graph."""
    kinds = ("in:", "int8:" if "int8" in Card.read(directory).precisions else "out:")
    with np.load(directory / "golden.npz") as cases:
        inputs, outputs = (
            {name.removeprefix(kind): cases[name] for name in cases.files if name.startswith(kind)} for kind in kinds
        )
    return inputs, outputs


def address(directory: Path) -> str:
    return f"/v2/models/{directory.parent.name}/versions/{directory.name}"


def described(name: str, values: np.ndarray, **more: Any) -> Document:
    """Return an input tensor without its data."""
    return {"name": name, "shape": list(values.shape), "datatype": DATATYPES[values.dtype.name], **more}


def in_json(name: str, values: np.ndarray) -> Document:
    return described(name, values, data=values.ravel().tolist())


def in_bytes(tensors: Tensors) -> dict[str, Any]:
    """Return the arguments of httpx for a request with binary inputs and outputs."""
    inputs = [described(name, each, parameters={"binary_data_size": each.nbytes}) for name, each in tensors.items()]
    return binary({"inputs": inputs, "parameters": {"binary_data_output": True}}, *tensors.values())


def picture(rows: int = 1) -> Document:
    """Return a tensor of blank pictures for digits."""
    return in_json("pictures", np.zeros((rows, 28, 28), np.uint8))


def binary(request: Document, *tensors: np.ndarray) -> dict[str, Any]:
    """Return the arguments of httpx for a JSON body with appended binary data."""
    head = json.dumps(request).encode()
    body = b"".join([head, *(values.tobytes() for values in tensors)])
    return {"content": body, "headers": {JSON_LENGTH: str(len(head))}}


def outputs_of(response: httpx.Response) -> Tensors:
    """Return the outputs of a response, from its JSON and the binary data after it."""
    assert response.status_code == 200, response.text
    size = int(response.headers.get(JSON_LENGTH, len(response.content)))
    assert response.headers["content-type"] == (
        "application/json" if size == len(response.content) else "application/octet-stream"
    )
    content, rest = json.loads(response.content[:size]), response.content[size:]
    found = {}
    for output in content["outputs"]:
        dtype = {"UINT8": "u1", "FP32": "<f4"}[output["datatype"]]
        if "data" in output:
            values = np.array(output["data"], dtype)
        else:
            size = output["parameters"]["binary_data_size"]
            values, rest = np.frombuffer(rest[:size], dtype), rest[size:]
        found[output["name"]] = values.reshape(output["shape"])
    assert not rest
    return found


def agree(found: Tensors, expected: Tensors) -> None:
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(
            found[name].astype(float), values.astype(float), atol=GOLDEN_TOLERANCE[values.dtype.kind]
        )


def refused(response: httpx.Response, status: int) -> str:
    """Check the status of an error response; return its message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    content = response.json()
    assert list(content) == ["error"]
    assert "Traceback" not in content["error"]
    return str(content["error"])
