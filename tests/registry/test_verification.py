"""A version is verified before it serves: a damaged version fails, and the error says what is damaged."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.engine.onnx import cuda as gpu
from service.engine.session import Runtime
from service.registry.card import Card, digests
from service.registry.loader import open_verified
from service.registry.verification import VerificationError
from service.tensors import Array
from tests.paths import MODELS


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """The perceptron that reads digits."""
    return shutil.copytree(MODELS / "digits" / "1", tmp_path / "models" / "digits" / "1")


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


def golden(change: Callable[[dict[str, Array]], object]) -> Callable[[Path], None]:
    """Damage to the golden cases, on the card: what `change` makes of their arrays."""

    def damage(version: Path) -> None:
        with np.load(version / "golden.npz") as cases:
            arrays = dict(cases)
        change(arrays)
        np.savez(version / "golden.npz", allow_pickle=False, **arrays)
        reseal(version)

    return damage


def replace_the_golden_cases(content: bytes) -> Callable[[Path], None]:
    def damage(version: Path) -> None:
        (version / "golden.npz").write_bytes(content)
        reseal(version)

    return damage


def break_an_array(version: Path) -> None:
    content = bytearray((version / "golden.npz").read_bytes())
    content[500:600] = bytes(100)
    (version / "golden.npz").write_bytes(content)
    reseal(version)


def add_a_folder(version: Path) -> None:
    (version / "extra").mkdir()


def add_a_pipe(version: Path) -> None:
    os.mkfifo(version / "extra")


def leave_out(name: str) -> Callable[[Path], None]:
    def damage(version: Path) -> None:
        (version / name).unlink()
        reseal(version)

    return damage


def link_to(place: str) -> Callable[[Path], None]:
    """Damage to the graph: it is put elsewhere, and a link in its place."""

    def damage(version: Path) -> None:
        target = Path(os.path.normpath(version / place))
        target.mkdir(parents=True)
        shutil.move(version / "model.onnx", target)
        (version / "model.onnx").symlink_to(target / "model.onnx")

    return damage


def link_in_a_circle(version: Path) -> None:
    (version / "model.onnx").unlink()
    (version / "model.onnx").symlink_to("model.onnx")


def link_the_version(version: Path) -> None:
    elsewhere = version.parent.parent.parent / "elsewhere"
    shutil.move(version, elsewhere)
    version.symlink_to(elsewhere)


def replace_the_graph_by_garbage(version: Path) -> None:
    (version / "model.int8.onnx").write_bytes(b"garbage")
    reseal(version)


def recorded(name: str, change: Callable[[Array], Array]) -> Callable[[dict[str, Array]], None]:
    def damage(arrays: dict[str, Array]) -> None:
        arrays[name] = change(arrays[name])

    return damage


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop("card.json"), "card.json cannot be read: No such file"),
        (truncate("card.json"), "card.json: Invalid JSON: EOF"),
        (claim_another_name, "card.json is that of letters version 1"),
        (claim_another_dtype, r"inputs: the graph has pictures uint8\[\?, 28, 28\], the card pictures float32"),
        (drop("model.onnx"), "model.onnx: missing"),
        (drop("model.int8.onnx"), "model.int8.onnx: missing"),
        (leave_out("model.int8.onnx"), "model.int8.onnx: not on the card, which needs it"),
        (leave_out("golden.npz"), "golden.npz: not on the card, which needs it"),
        (truncate("model.onnx"), "model.onnx: changed"),
        (flip_a_bit, "model.onnx: changed"),
        (add_a_file, "extra.bin: not on the card"),
        (add_a_folder, "extra: not a file"),
        (add_a_pipe, "extra: not a file"),
        (link_to("../../../elsewhere"), "model.onnx: leads out of the models' folder"),
        (link_in_a_circle, "model.onnx: not a file"),
        (link_the_version, "^the version leads out of the models' folder"),
        (replace_the_graph_by_garbage, "model.int8.onnx does not load: Protobuf parsing failed"),
        (replace_the_golden_cases(b""), "golden.npz: "),
        (replace_the_golden_cases(b"garbage"), "golden.npz: "),
        (break_an_array, "golden.npz: "),
        (golden(lambda arrays: arrays.pop("int8:probabilities")), "golden.npz: there is no int8:probabilities"),
        (
            golden(recorded("int8:probabilities", lambda array: array[::-1])),
            "golden cases: probabilities differs .* by",
        ),
        (golden(recorded("int8:probabilities", lambda array: array * np.float32(np.nan))), "golden cases: .* by nan"),
        (golden(recorded("int8:probabilities", lambda array: array[:, :3])), r"float32\[32, 3\], the card says .*10"),
        (golden(recorded("int8:probabilities", lambda array: array[:9])), "rows of its arrays: 9, 32"),
        (
            golden(recorded("in:pictures", lambda array: array[..., 0])),
            r"in:pictures is uint8\[32, 28\], the card says",
        ),
        (golden(recorded("in:pictures", lambda array: array.astype(float))), "in:pictures is float64"),
        (golden(lambda arrays: arrays.update({k: v[:0] for k, v in arrays.items()})), "rows of its arrays: 0"),
    ],
)
def test_a_damaged_version_fails_with_the_reason(version: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(version)
    with pytest.raises(VerificationError, match=reason) as failure:
        open_verified(version, Runtime())
    assert str(version.parent.parent) not in str(failure.value)
    assert str(failure.value).isprintable()  # in one line


def test_a_version_runs_on_the_chosen_device_or_fails_with_the_reason(version: Path) -> None:
    if gpu.unavailable_reason("cuda"):
        with pytest.raises(VerificationError, match="cuda does not work"):
            open_verified(version, Runtime("cuda"))
    else:
        _, session = open_verified(version, Runtime("cuda"))
        assert session.provider == "CUDAExecutionProvider"


def test_the_precision_on_the_card_is_served_unless_the_reference_is_chosen(version: Path) -> None:
    pictures = {"pictures": np.load(version / "golden.npz")["in:pictures"]}
    answers = {}
    for runtime, served in ((Runtime(), "int8"), (Runtime(precision="float32"), "float32")):
        _, session = open_verified(version, runtime)
        assert session.precision == served
        answers[served] = session.run(pictures)["probabilities"]
    difference = np.abs(answers["int8"] - answers["float32"])
    assert 0 < difference.max() < 0.05


def test_a_version_without_an_int8_graph_serves_its_reference(version: Path) -> None:
    (version / "model.int8.onnx").unlink()
    Card.read(version).model_copy(update={"int8": None, "files": digests(version)}).write(version)
    _, session = open_verified(version, Runtime())
    assert session.precision == "float32"


@pytest.mark.parametrize("place", ["../shared", "../../..data/digits"])
def test_links_may_lead_anywhere_in_the_models_folder(version: Path, place: str) -> None:
    link_to(place)(version)
    open_verified(version, Runtime())


def test_the_models_folder_may_be_a_link(version: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(version.parent.parent)
    open_verified(tmp_path / "link" / "digits" / "1", Runtime())
