"""Starting: what is wrong is named, and the process ends with a failure; a broken model leaves the others serving."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.live.conftest import ROOT, serving


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEEPSERVE_PORT", "eighty"),
        ("DEEPSERVE_PORT", "70000"),
        ("DEEPSERVE_WORKERS", "0"),
        ("DEEPSERVE_DEVICE", "tpu"),
        ("DEEPSERVE_MODELS_DIR", "/nowhere"),
        ("DEEPSERVE_MAX_BODY_BYTES", "-1"),
    ],
)
def test_a_wrong_setting_is_named_and_ends_the_start(name: str, value: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "service"],
        cwd=ROOT,
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode != 0
    assert name in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_broken_version_never_takes_a_good_one_down(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(ROOT / "models" / "digits", models / "digits")
    graph = models / "digits" / "2" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    with serving(tmp_path / "log", models_dir=str(models)) as url:
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert httpx.get(f"{url}/livez").status_code == 200
        versions = httpx.get(f"{url}/v1/models/digits").json()["versions"]
        assert [version["state"] for version in versions] == ["READY", "UNAVAILABLE"]
        assert "model.onnx" in versions[1]["reason"]
        picture = (ROOT / "tests" / "examples" / "digit.png").read_bytes()
        headers = {"Content-Type": "image/png"}
        answer = httpx.post(f"{url}/v1/digits", content=picture, headers=headers)
        assert (answer.status_code, answer.json()["version"]) == (200, "1")
        assert httpx.post(f"{url}/v1/digits?version=2", content=picture, headers=headers).status_code == 503
        assert httpx.post(f"{url}/v1/sentiment", json={"reviews": ["x"]}).status_code in (404, 503)


def test_with_keys_only_their_holders_are_answered(tmp_path: Path) -> None:
    with serving(tmp_path / "log", api_keys="first-key, second-key") as url:
        for key, status in (("first-key", 200), ("second-key", 200), ("third-key", 401), ("", 401)):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            answer = httpx.post(f"{url}/v1/mammogram", json={"masses": [{"age": 50}]}, headers=headers)
            assert answer.status_code == status
        assert answer.headers["www-authenticate"] == "Bearer"
        assert httpx.get(f"{url}/v1/models").status_code == 401
        for path in ("/livez", "/readyz", "/metrics", "/docs.json"):
            assert httpx.get(f"{url}{path}").status_code == 200
