"""A version appears complete and proven, or not at all; nothing that was there before is touched."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from service.registry.card import Card
from service.registry.verification import VerificationError, verify_files
from tests.paths import MODELS, ROOT
from tests.training.interrupted_builds import build
from training.run import Run
from training.version import (
    OutputError,
    ParityError,
    VersionBuilder,
    check_out,
    check_parity,
    export_graph,
    next_free_version,
    replacing,
)

SHIPPED = MODELS / "mammogram" / "1"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with one version of one model."""
    shutil.copytree(SHIPPED, tmp_path / "models" / "mammogram" / "1")
    return tmp_path / "models"


@pytest.mark.parametrize("how", ["killed", "interrupted", "full disk"])
def test_a_build_that_stops_at_any_moment_leaves_everything_as_it_was(models: Path, how: str) -> None:
    command = [sys.executable, "-m", "tests.training.interrupted_builds", str(SHIPPED), str(models), how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    moments = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(moments) > 15
    assert moments[-1]["status"] == 0
    stopped = {"killed": -9, "interrupted": 3, "full disk": 4}[how]
    assert {moment["status"] for moment in moments[:-1]} <= {stopped, 0}
    assert all(moment["old_untouched"] for moment in moments)
    assert all(moment["checkpoint"] for moment in moments if not moment["complete"])
    assert not moments[-1]["checkpoint"]


def test_what_a_killed_build_left_behind_is_cleared_by_the_next(models: Path) -> None:
    out = models / "mammogram" / "2"
    (models / "mammogram" / ".building-2" / "mammogram" / "2").mkdir(parents=True)
    build(SHIPPED, out)
    verify_files(out)
    assert not list(out.parent.glob(".building*"))


def test_a_version_that_the_service_would_refuse_is_not_published(models: Path) -> None:
    out = models / "mammogram" / "2"
    run = Run("mammogram", out, models_dir=models)
    card = Card.read(SHIPPED).model_copy(update={"version": "2", "files": {}})
    with VersionBuilder(out) as builder:
        for path in SHIPPED.iterdir():
            if path.name not in ("card.json", "README.md"):
                shutil.copyfile(path, builder.directory / path.name)
        with np.load(SHIPPED / "golden.npz") as golden:
            wrong = {**golden, "out:probabilities": golden["out:probabilities"][::-1]}
        np.savez(builder.directory / "golden.npz", allow_pickle=False, **wrong)
        with pytest.raises(VerificationError, match="golden"):
            builder.publish(card, run)
    assert [path.name for path in out.parent.iterdir() if path.is_dir()] == ["1"]


def test_the_next_free_version_is_after_the_newest(models: Path) -> None:
    assert next_free_version(models / "mammogram").name == "2"
    (models / "mammogram" / "9").mkdir()
    assert next_free_version(models / "mammogram").name == "10"
    assert next_free_version(models / "digits").name == "1"


def test_a_place_where_no_version_can_be_written_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="never overwritten"):
        check_out(models / "mammogram" / "1", "mammogram")
    for wrong in (models / "digits" / "2", models / "mammogram" / "latest", tmp_path):
        with pytest.raises(OutputError, match="mammogram/3"):
            check_out(wrong, "mammogram")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        check_out(tmp_path / "file" / "mammogram" / "1", "mammogram")
    check_out(tmp_path / "candidates" / "mammogram" / "1", "mammogram")


def test_a_graph_that_differs_from_its_network_is_refused(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    batch = {"x": np.ones((4, 3), np.float32)}
    graph = export_graph(network, tmp_path / "model.onnx", batch, ("y",), {"x": {0: "batch"}})
    assert check_parity(network, graph, [batch]) < 1e-6
    with torch.no_grad():
        network.bias.add_(1e-3)
    with pytest.raises(ParityError, match=r"model\.onnx"):
        check_parity(network, graph, [batch])
    with torch.no_grad():
        network.bias.fill_(torch.nan)
    with pytest.raises(ParityError):
        check_parity(network, graph, [batch])


def test_a_file_is_replaced_when_its_successor_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "judge.onnx"
    path.write_text("old")

    def fail(scratch: Path) -> None:
        scratch.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError), replacing(path) as scratch:
        fail(scratch)
    assert path.read_text() == "old"
    with replacing(path) as scratch:
        scratch.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
