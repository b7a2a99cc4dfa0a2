"""A version serves only once it has proved itself: what is damaged says what is wrong with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.engine import gpu
from service.engine.card import Card, digests
from service.engine.inference import Runtime
from service.engine.verification import VerificationError, verify

SHIPPED = Path(__file__).parent.parent.parent / "models"


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """The perceptron that reads digits."""
    return shutil.copytree(SHIPPED / "digits" / "1", tmp_path / "digits" / "1")


def reseal(version: Path) -> None:
    """Makes the card's checksums fit what the directory now holds."""
    card = json.loads((version / "card.json").read_text())
    card["files"] = digests(version)
    (version / "card.json").write_text(json.dumps(card))


def drop(name: str) -> Callable[[Path], None]:
    return lambda version: (version / name).unlink()


def truncate(name: str) -> Callable[[Path], None]:
    def damage(version: Path) -> None:
        (version / name).write_bytes((version / name).read_bytes()[:-50])

    return damage


def flip_a_bit(version: Path) -> None:
    content = bytearray((version / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (version / "model.onnx").write_bytes(content)


def add_a_file(version: Path) -> None:
    (version / "extra.bin").write_bytes(b"x")


def claim_another_name(version: Path) -> None:
    Card.read(version).model_copy(update={"name": "letters"}).write(version)


def claim_another_dtype(version: Path) -> None:
    card = Card.read(version)
    card.model_copy(update={"inputs": (card.inputs[0].model_copy(update={"dtype": "float32"}),)}).write(version)


def change_the_golden_outputs(version: Path) -> None:
    with np.load(version / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["int8:probabilities"] = arrays["int8:probabilities"][::-1]
    np.savez(version / "golden.npz", allow_pickle=False, **arrays)
    reseal(version)


def change_the_shape_of_golden_outputs(version: Path) -> None:
    with np.load(version / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["int8:probabilities"] = arrays["int8:probabilities"][:, :3]
    np.savez(version / "golden.npz", allow_pickle=False, **arrays)
    reseal(version)


def empty_the_golden_cases(version: Path) -> None:
    (version / "golden.npz").write_bytes(b"")
    reseal(version)


def add_a_folder(version: Path) -> None:
    (version / "extra").mkdir()


def forget_the_golden_outputs(version: Path) -> None:
    with np.load(version / "golden.npz") as golden:
        arrays = {name: values for name, values in golden.items() if not name.startswith("int8:")}
    np.savez(version / "golden.npz", allow_pickle=False, **arrays)
    reseal(version)


def replace_the_graph_by_garbage(version: Path) -> None:
    (version / "model.int8.onnx").write_bytes(b"garbage")
    reseal(version)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop("card.json"), "card.json"),
        (drop("model.onnx"), "model.onnx"),
        (drop("model.int8.onnx"), "model.int8.onnx"),
        (drop("golden.npz"), "golden.npz"),
        (truncate("card.json"), "card.json"),
        (truncate("model.onnx"), "model.onnx"),
        (flip_a_bit, "model.onnx"),
        (add_a_file, "extra.bin"),
        (claim_another_name, "letters"),
        (claim_another_dtype, "inputs"),
        (change_the_golden_outputs, "golden"),
        (forget_the_golden_outputs, "golden"),
        (replace_the_graph_by_garbage, "model.int8.onnx"),
        (empty_the_golden_cases, "golden"),
        (change_the_shape_of_golden_outputs, "golden"),
        (add_a_folder, "extra"),
    ],
)
def test_a_damaged_version_says_what_is_wrong(version: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(version)
    with pytest.raises(VerificationError, match=reason) as failure:
        verify(version, Runtime())
    assert str(version) not in str(failure.value)


def test_a_version_runs_on_the_device_asked_for_or_says_that_it_cannot(version: Path) -> None:
    if gpu.trouble("cuda"):
        with pytest.raises(VerificationError, match="cuda does not work"):
            verify(version, Runtime("cuda"))
    else:
        _, session = verify(version, Runtime("cuda"))
        assert session.provider == "CUDAExecutionProvider"


def test_the_precision_on_the_card_is_served_unless_the_reference_is_asked_for(version: Path) -> None:
    pictures = {"pictures": np.load(version / "golden.npz")["in:pictures"]}
    answers = {}
    for runtime, served in ((Runtime(), "int8"), (Runtime(precision="float32"), "float32")):
        _, session = verify(version, runtime)
        assert session.precision == served
        answers[served] = session.run(pictures)["probabilities"]
    difference = np.abs(answers["int8"] - answers["float32"])
    assert 0 < difference.max() < 0.05


def test_a_version_whose_card_knows_no_integers_serves_its_reference(version: Path) -> None:
    (version / "model.int8.onnx").unlink()
    Card.read(version).model_copy(update={"int8": None, "files": digests(version)}).write(version)
    _, session = verify(version, Runtime())
    assert session.precision == "float32"
