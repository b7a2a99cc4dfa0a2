"""Every trainer goes the whole way, is deterministic under its seed, and can be interrupted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from service.registry.repository import Repository

from service.engine.session import Runtime
from tests.paths import ROOT
from training.__main__ import TRAINERS

SERVED = sorted(TRAINERS.keys() - {"fashion-judge"})


def command(name: str, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "training", name, "--smoke", "--device", "cpu", "--out", str(out), *options]


def train(name: str, out: Path, *options: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command(name, out, *options), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", SERVED)
def test_a_smoke_run_makes_a_version_that_serves(name: str, tmp_path: Path) -> None:
    out = tmp_path / TRAINERS[name].out
    train(name, out)
    repository = Repository(tmp_path / "models", Runtime())
    [(model, files)] = repository.folder.scan().items()
    assert not repository.load(model, list(files.fingerprints))
    assert repository.newest(model).number == out.name
    assert [path.name for path in out.parent.iterdir()] == [out.name]  # no checkpoint is left


def test_the_judge_of_clothing_can_be_trained(tmp_path: Path) -> None:
    train("fashion-judge", tmp_path / "judge.onnx")
    assert (tmp_path / "judge.onnx").stat().st_size > 10_000


def test_the_same_seed_gives_the_same_network_and_another_seed_another(tmp_path: Path) -> None:
    graphs = []
    for place, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        train("mammogram", tmp_path / place / "mammogram" / "1", "--seed", seed)
        graphs.append((tmp_path / place / "mammogram" / "1" / "model.onnx").read_bytes())
    assert graphs[0] == graphs[1] != graphs[2]


def test_an_interrupted_run_goes_on_to_the_same_network(tmp_path: Path) -> None:
    whole, cut = (tmp_path / place / "digits" / "1" for place in ("whole", "cut"))
    options = ("--epochs", "3")
    train("digits-mlp", whole, *options)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    first = subprocess.Popen(
        command("digits-mlp", cut, *options), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert first.stderr is not None
    for line in first.stderr:
        if "epoch   2" in line:  # logged just before its checkpoint is written: whichever is there will do
            first.send_signal(signal.SIGKILL)
            break
    first.stderr.close()
    first.wait()
    assert not (cut / "card.json").exists()
    train("digits-mlp", cut, *options, "--resume")
    assert (cut / "model.onnx").read_bytes() == (whole / "model.onnx").read_bytes()


def test_wrong_options_are_refused_by_name() -> None:
    for options in (["nothing"], ["digits", "--epochs", "many"], ["digits", "--device", "tpu"]):
        ended = subprocess.run([sys.executable, "-m", "training", *options], cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 2
        assert options[-1] in ended.stderr


def test_data_that_is_missing_is_an_error_and_no_stack_trace(tmp_path: Path) -> None:
    environment = {**os.environ, "DEEPSERVE_DATA_DIR": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    ended = subprocess.run(
        [sys.executable, "-m", "training", "mammogram", "--smoke", "--out", str(tmp_path / "m" / "1")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode != 0
    assert "mammographic_masses.data" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
