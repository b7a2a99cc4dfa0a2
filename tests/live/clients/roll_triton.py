"""Rolls a model back and forth as `tritonclient.http` can: `python roll_triton.py HOST:PORT ADMIN_KEY KEY`.

The server has versions 1 and 2 of digits, ready both.
"""

import json
import sys
from collections.abc import Callable

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

ONLY_1 = json.dumps({"version_policy": {"specific": {"versions": [1]}}})


def refusal(ask: Callable[[], None]) -> str | None:
    """Return the status of the error, or None on success."""
    try:
        ask()
    except InferenceServerException as error:
        return error.status()
    return None


def main(address: str, admin: dict[str, str], user: dict[str, str]) -> None:
    with InferenceServerClient(address) as client:

        def answering() -> str:
            tensor = InferInput("pictures", [1, 28, 28], "UINT8")
            tensor.set_data_from_numpy(np.zeros((1, 28, 28), np.uint8))
            return client.infer("digits", [tensor], headers=user).get_response()["model_version"]

        def index() -> dict[str, str]:
            entries = client.get_model_repository_index(headers=user)
            return {entry["version"]: entry["state"] for entry in entries if entry["name"] == "digits"}

        assert "model_repository" in client.get_server_metadata(headers=user)["extensions"]
        assert answering() == "2"

        client.load_model("digits", headers=admin, config=ONLY_1)
        assert answering() == "1"
        assert client.is_model_ready("digits", "1", headers=user)
        assert not client.is_model_ready("digits", "2", headers=user)
        assert index() == {"1": "READY", "2": "UNAVAILABLE"}
        policy = client.get_model_config("digits", headers=user)["version_policy"]
        assert policy == {"specific": {"versions": [1]}}

        client.load_model("digits", headers=admin)
        assert answering() == "2"
        assert index() == {"1": "READY", "2": "READY"}

        config = client.get_model_config("digits", headers=user)
        client.load_model("digits", headers=admin, config=json.dumps(config))
        assert client.get_model_config("digits", headers=user) == config

        client.unload_model("digits", headers=admin, unload_dependents=True)
        assert not client.is_model_ready("digits", headers=user)
        assert refusal(answering) == "503"
        client.load_model("digits", headers=admin)
        assert client.is_model_ready("digits", headers=user)

        assert refusal(lambda: client.load_model("digits", headers=user)) == "401"
        assert refusal(lambda: client.unload_model("digits")) == "401"
        assert refusal(lambda: client.load_model("nothing", headers=admin)) == "404"
        assert refusal(lambda: client.load_model("digits", headers=admin, config='{"backend": "python"}')) == "400"
        files = {"file:3/model.onnx": b"anything"}
        assert refusal(lambda: client.load_model("digits", headers=admin, config="{}", files=files)) == "400"
        assert index() == {"1": "READY", "2": "READY"}


main(sys.argv[1], *({"Authorization": f"Bearer {key}"} for key in sys.argv[2:]))
