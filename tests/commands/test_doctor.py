"""`python -m service doctor` reports whether the server would start and be ready."""

import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from load_tests.processes import free_ports
from service.commands.startup import LIBRARIES
from service.engine.onnx import cuda as gpu
from service.settings import Settings
from tests.live.conftest import clean_environment
from tests.paths import MODELS, ROOT


def doctor(*options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The command itself, with these settings."""
    environment = {**clean_environment(), **{f"DEEPSERVE_{name.upper()}": value for name, value in settings.items()}}
    command = [sys.executable, "-m", "service", "doctor", *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


def checks(report: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """State and finding by subject."""
    found = [check for section in report.values() if isinstance(section, list) for check in section]
    return {check["subject"]: (check["verdict"], check["finding"]) for check in found}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Three versions of digits, of which the newest is broken; mammogram; and a folder that is nothing."""
    for version in ("1", "2"):
        shutil.copytree(MODELS / "digits" / version, tmp_path / "digits" / version)
    shutil.copytree(MODELS / "digits" / "2", tmp_path / "digits" / "3")
    shutil.copytree(MODELS / "mammogram" / "1", tmp_path / "mammogram" / "1")
    (tmp_path / "digits" / "latest").mkdir()
    return tmp_path


def test_the_report_of_a_start_that_would_succeed(models: Path) -> None:
    [port] = map(str, free_ports(1))
    done = doctor(
        "--json",
        port=port,
        models_dir=str(models),
        api_keys="hush, hush-hush",
        workers="auto",
        worker="3",
        version_policy=json.dumps({"digits": "latest 1"}),
        cache_bytes=json.dumps({"sentiment": 1000}),
        canary=json.dumps({"digits": {"version": "9", "share": 0.5}}),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "hush" not in done.stdout
    report = json.loads(done.stdout)
    assert report["ready"] is True
    found = checks(report)
    assert found["digits 3"] == ("warn", "not served: card.json is that of digits version 2")
    assert found["digits 2"] == ("ok", "CPUExecutionProvider, int8, answers by default")
    assert found["digits 1"] == ("ok", "not served: the version policy (latest 1) leaves it out")
    assert found["mammogram 1"] == ("ok", "CPUExecutionProvider, float32, answers by default")
    assert found["ignored"] == ("warn", "digits/latest: a version is a number, as in digits/1")
    assert found["cache_bytes"] == ("warn", "names sentiment, a model that is not served")
    assert found["canary"] == ("warn", "names version 9 of digits, which is not served")
    assert found["address"] == ("ok", f"127.0.0.1:{port} is free")
    assert found["TLS"] == ("ok", "off")
    assert found["DEEPSERVE_PORT"] == ("ok", f"{port} (environment)")
    assert found["DEEPSERVE_VERSION_POLICY"] == ("ok", "digits: latest 1 (environment)")
    assert found["DEEPSERVE_API_KEYS"] == ("ok", "2, hidden (environment)")
    assert found["DEEPSERVE_THREADS"] == ("ok", "1 (computed)")
    assert found["DEEPSERVE_DEVICE"] == ("ok", "cpu (default)")
    assert found["environment"] == ("warn", "DEEPSERVE_WORKER is not a setting; is DEEPSERVE_WORKERS meant?")
    assert {f"DEEPSERVE_{name.upper()}" for name in Settings.model_fields} <= found.keys()


def test_all_failures_are_reported_at_once(models: Path) -> None:
    shutil.rmtree(models / "digits")
    (models / "mammogram" / "1" / "golden.npz").write_bytes(b"")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = doctor(port=port, models_dir=str(models))
    assert done.returncode == 1
    assert re.search(f"FAIL  address .* DEEPSERVE_PORT: 127.0.0.1:{port}: ", done.stdout)
    assert "warn  mammogram 1  not served: golden.npz: changed" in done.stdout
    assert "FAIL  mammogram    none of its versions is served" in done.stdout
    assert done.stdout.endswith("The server would not be ready.\n")
    assert done.stderr == ""


def test_a_model_that_cannot_be_read_is_a_failure(models: Path) -> None:
    (models / "sentiment").symlink_to("unmounted")
    done = doctor(port=str(free_ports(1)[0]), models_dir=str(models))
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL  sentiment    its files are missing (sentiment: No such file or directory)" in done.stdout


def test_a_models_folder_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    done = doctor(port=str(free_ports(1)[0]), models_dir=str(tmp_path / "nowhere"))
    assert (done.returncode, done.stderr) == (1, "")
    assert (
        f"FAIL  models             DEEPSERVE_MODELS_DIR: {tmp_path / 'nowhere'}: No such file or directory"
        in done.stdout
    )


def test_a_device_that_does_not_work_is_a_failure_with_the_reason() -> None:
    trouble = gpu.unavailable_reason("cuda")
    done = doctor("--json", port=str(free_ports(1)[0]), device="cuda")
    told = ("ok", "cuda works") if trouble is None else ("FAIL", f"DEEPSERVE_DEVICE: cuda does not work: {trouble}")
    assert done.returncode == (trouble is not None)
    assert checks(json.loads(done.stdout))["device"] == told


def test_an_invalid_setting_is_a_failure() -> None:
    done = doctor(port="eighty")
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL  settings  DEEPSERVE_PORT: " in done.stdout


def test_every_dependency_is_checked() -> None:
    needed = re.search(r"^dependencies = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert needed is not None
    assert set(LIBRARIES) == set(re.findall(r'^    "([a-z-]+)', needed[1], re.MULTILINE))
