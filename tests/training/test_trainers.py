"""Every trainer learns, goes the whole way, follows its seed, and can be interrupted and continued."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.inference.binding import bind
from service.registry.card import Card
from service.registry.registry import ModelRegistry
from service.settings import Settings
from tests.paths import ROOT
from training.__main__ import main

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

BARS = {
    "digits": {"accuracy": 0.9},
    "digits-mlp": {"accuracy": 0.8},
    "sentiment": {"accuracy": 0.72, "accuracy_recurrent": 0.65, "accuracy_linear": 0.7},
    "mammogram": {"accuracy": 0.76, "area_under_roc": 0.84},
    "fashion": {"agreement": 0.25},
}
"""What a smoke run has to reach: far above chance, and out of reach with the sign of a loss flipped."""


def training(*words: str) -> list[str]:
    return [sys.executable, "-m", "training", *words]


def command(name: str, out: Path, *options: str) -> list[str]:
    return training("train", name, "--smoke", "--device", "cpu", "--out", str(out), *options)


def run(words: list[str], status: int = 0, **environment: str) -> str:
    """The standard error of the command, which ends with that status and without a stack trace."""
    done = subprocess.run(
        words, cwd=ROOT, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("name", BARS)
def test_a_smoke_run_learns_and_makes_a_version_that_serves(name: str, tmp_path: Path) -> None:
    model = name.partition("-")[0]
    out = tmp_path / "models" / model / "1"
    run(command(name, out))
    registry = ModelRegistry(Settings(models_dir=tmp_path / "models"), bind)
    [(found, files)] = registry.folder.scan().items()
    assert not registry.load(found, list(files.fingerprints))
    assert registry.find(found, None).number == "1"
    assert [path.name for path in out.parent.iterdir()] == ["1"]  # neither a checkpoint nor a build is left
    card = Card.read(out)
    reached = {figure: card.figures[figure].value for figure in BARS[name]}
    assert all(reached[figure] >= bar for figure, bar in BARS[name].items()), reached
    assert card.baselines
    assert card.provenance[0].action == "trained"
    assert "smoke" in card.training.command


def test_the_judge_of_clothing_learns(tmp_path: Path) -> None:
    told = run(command("fashion-judge", tmp_path / "judge.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["judge.onnx"]
    accuracy = float(told.strip().splitlines()[-1].rpartition(" ")[2])
    assert accuracy >= 0.65


def test_a_run_is_interrupted_continued_and_guarded(tmp_path: Path) -> None:
    """Ctrl-C says how to continue; the continued run gives the same network as one without interruption."""
    whole, cut = (tmp_path / place / "digits" / "1" for place in ("whole", "cut"))
    options = ("--epochs", "3")
    run(command("digits-mlp", whole, *options))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore Ctrl-C
    first = subprocess.Popen(
        command("digits-mlp", cut, *options), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    assert first.stderr is not None
    for line in first.stderr:
        if "epoch   2" in line:  # logged just before its checkpoint is written: either is a valid start
            first.send_signal(signal.SIGINT)
            break
    told = first.stderr.read()
    first.stderr.close()
    assert first.wait() == 130
    assert "--resume" in told
    assert str(cut) in told
    assert "Traceback" not in told
    assert not cut.exists()
    checkpoint = cut.parent / ".1.checkpoint.pt"
    assert str(checkpoint) in run(command("digits-mlp", cut, *options), status=2)
    for other in (["--seed", "5"], ["--dropout", "0.5"]):
        refused = run(command("digits-mlp", cut, *options, *other, "--resume"), status=2)
        assert other[0].removeprefix("--") in refused
        assert len(refused.strip().splitlines()) == 1
    run(command("digits-mlp", cut, *options, "--resume"))
    assert (cut / "model.onnx").read_bytes() == (whole / "model.onnx").read_bytes()
    assert not checkpoint.exists()
    assert Card.read(cut).training.command == (
        "python -m training train digits-mlp --smoke --epochs 3 --batch-size 64 --held-out 1000"
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["nothing"], "nothing"),
        (["digits", "--epochs", "many"], "epochs"),
        (["digits", "--epochs", "0"], "epochs"),
        (["digits", "--device", "tpu"], "device"),
        (["digits-mlp", "--dropout", "1"], "dropout"),
        (["sentiment", "--cell", "rnn"], "cell"),
        (["fashion", "--seed", "-1"], "seed"),
        (["mammogram", "--out", "models/mammogram/1"], "models/mammogram/1"),
        (["mammogram", "--out", "models/mammogram/new"], "models/mammogram/new"),
        (["mammogram", "--out", "/proc/mammogram/1"], "/proc/mammogram/1"),
        (["mammogram", "--data-dir", "/proc"], "mammographic_masses.data"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_training(
    options: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as refused:
        main(["train", *options])
    assert refused.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert named in told[-1]
    assert "Traceback" not in told
