"""`python -m service verify` finds faults of a version before it is deployed. Its exit status tells scripts."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.commands.verify import NothingThereError, check
from service.commands.verify import verify as verify_here
from service.registry.card import Card, Figure, digests
from tests.paths import MODELS, ROOT

DIGITS = MODELS / "digits"


def verify(*folders: Path | str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command itself."""
    command = [sys.executable, "-m", "service", "verify", *map(str, folders)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """The perceptron that reads digits."""
    return shutil.copytree(DIGITS / "1", tmp_path / "digits" / "1")


def faults(version: Path) -> list[str]:
    return [f"{found.subject}: {found.finding}" for found in check(version) if found.failed]


def test_the_shipped_models_pass() -> None:
    done = verify("models")
    assert (done.returncode, done.stderr) == (0, "")
    count = len(list(MODELS.glob("*/*/card.json")))
    assert done.stdout.count("version ") == count
    assert done.stdout.endswith(f"{count} verified, 0 failed\n")
    assert "FAIL" not in done.stdout


def test_one_version_that_fails_fails_the_command(version: Path) -> None:
    shutil.copytree(DIGITS / "2", version.parent / "2")
    (version / "model.onnx").write_bytes(b"garbage")
    (version.parent / "latest").symlink_to("1")
    done = verify(version.parent)
    assert done.returncode == 1
    assert "FAIL  files  model.onnx: changed" in done.stdout
    assert "ignored: digits/latest: a version is a number" in done.stdout
    assert done.stdout.endswith("2 verified, 1 failed\n")


@pytest.mark.parametrize("folder", ["nowhere", "digits/9", "empty", "digits/1/card.json"])
def test_a_folder_without_versions_is_an_error(version: Path, folder: str) -> None:
    (version.parent.parent / "empty").mkdir()
    with pytest.raises(NothingThereError, match=folder):
        verify_here([version.parent.parent / folder])


def test_a_model_that_cannot_be_read_is_an_error(version: Path) -> None:
    (version.parent.parent / "sentiment").symlink_to("unmounted")
    with pytest.raises(NothingThereError, match="sentiment: No such file or directory"):
        verify_here([version.parent.parent])


def test_the_exit_status_of_a_wrong_command_line_is_2() -> None:
    done = verify("models/digits", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nowhere: there is no such folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reference_graph_that_is_not_served_is_verified_too(version: Path) -> None:
    with np.load(version / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["out:probabilities"] = arrays["out:probabilities"][::-1]
    np.savez(version / "golden.npz", allow_pickle=False, **arrays)
    Card.read(version).model_copy(update={"files": digests(version)}).write(version)
    [fault] = faults(version)
    assert fault.startswith("model.onnx: golden cases: probabilities differs")


def test_a_model_without_a_task_fails(version: Path) -> None:
    letters = version.parent.rename(version.parent.with_name("letters")) / "1"
    Card.read(letters).model_copy(update={"name": "letters"}).write(letters)
    assert faults(letters) == ["task: there is no task of this name"]


def test_a_version_in_a_folder_that_servers_ignore_fails(version: Path) -> None:
    wrong = version.parent.rename(version.parent.with_name("Digits")) / "1"
    assert faults(wrong)[0].startswith("place: Digits/1")


def test_a_card_without_distributions_is_a_warning(version: Path) -> None:
    Card.read(version).model_copy(update={"distributions": {}}).write(version)
    [warning] = [found for found in check(version) if found.verdict != "ok"]
    assert (warning.subject, warning.verdict) == ("drift", "warn")


def test_a_card_whose_figures_a_baseline_beats_is_told_and_passes(version: Path) -> None:
    card = Card.read(version)
    slightly, clearly = (card.figures["accuracy"].value + gain for gain in (0.0001, 0.008))
    for value, warned in ((slightly, False), (clearly, True)):
        baselines = {"rule of thumb": {"accuracy": Figure(value=value, how="x"), "speed": Figure(value=1, how="x")}}
        card.model_copy(update={"baselines": baselines}).write(version)
        warnings = [found for found in check(version) if found.verdict != "ok"]
        assert [(found.subject, found.verdict) for found in warnings] == [("baseline", "warn")] * warned
    assert "rule of thumb" in warnings[0].finding
    losses = {"rule of thumb": {"log_loss": Figure(value=card.figures["log_loss"].value / 2, how="x")}}
    card.model_copy(update={"baselines": losses}).write(version)
    assert [found.subject for found in check(version) if found.verdict != "ok"] == ["baseline"]


def leave_out(field: str) -> Callable[[Card], dict[str, object]]:
    return lambda card: {field: type(getattr(card, field))()}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (leave_out("limits"), "limits is empty"),
        (leave_out("data"), "data is empty"),
        (leave_out("figures"), "figures is empty"),
        (lambda card: {"training": card.training.model_copy(update={"command": ""})}, "training.command is empty"),
        (
            lambda card: {"data": (card.data[0].model_copy(update={"licence": ""}),)},
            "licence of the data MNIST is empty",
        ),
        (lambda _: {"figures": {"f1": Figure(value=0.5, how="")}}, "how the figure f1 was measured is not said"),
        (
            lambda _: {"figures": {"f1": Figure(value=0.9, low=0.1, high=0.2, how="x")}},
            "the figure f1, 0.9, is not within its bounds, 0.1 to 0.2",
        ),
    ],
)
def test_what_is_missing_on_the_card_is_named(
    version: Path, change: Callable[[Card], dict[str, object]], fault: str
) -> None:
    card = Card.read(version)
    card.model_copy(update=change(card)).write(version)
    [found] = faults(version)
    assert found.startswith(f"card: {fault}")
