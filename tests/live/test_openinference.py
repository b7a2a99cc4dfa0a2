"""The Open Inference Protocol as plain HTTP has it: every model in tensors, and what is refused."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from service.engine.card import Card
from service.http.tensors import DATATYPES
from tests.live.conftest import ROOT

VERSIONS = sorted(path.parent for path in ROOT.glob("models/*/*/card.json"))


def golden(directory: Path, kind: str) -> dict[str, np.ndarray]:
    """The golden inputs (`in`) or outputs (`out`) of a version, by name."""
    with np.load(directory / "golden.npz") as cases:
        return {name.partition(":")[2]: cases[name] for name in cases.files if name.startswith(f"{kind}:")}


def infer_path(directory: Path) -> str:
    return f"/v2/models/{directory.parent.name}/versions/{directory.name}/infer"


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("directory", VERSIONS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_the_golden_cases_come_out_of_json(client: httpx.Client, directory: Path, nested: bool) -> None:
    card = Card.read(directory)
    inputs = []
    for spec in card.inputs:
        values = np.nan_to_num(golden(directory, "in")[spec.name][:2])
        data = (values if nested else values.ravel()).tolist()
        datatype = DATATYPES[spec.dtype]
        inputs.append({"name": spec.name, "shape": list(values.shape), "datatype": datatype, "data": data})
    answer = client.post(infer_path(directory), json={"inputs": inputs, "id": "seven"})
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert (content["model_name"], content["model_version"], content["id"]) == (card.name, card.version, "seven")
    assert [output["name"] for output in content["outputs"]] == [spec.name for spec in card.outputs]
    assert all(output["shape"][0] == 2 for output in content["outputs"])
