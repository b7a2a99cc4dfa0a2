"""A version serves only once it has proved itself: what is damaged says what is wrong with it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.arrays import Array
from service.engine import gpu
from service.engine.card import Card, TensorSpec, digests
from service.engine.inference import Runtime
from service.engine.verification import VerificationError, verify
from tests.places import MODELS


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
def test_a_damaged_version_says_what_is_wrong(version: Path, damage: Callable[[Path], None], reason: str) -> None:
    damage(version)
    with pytest.raises(VerificationError, match=reason) as failure:
        verify(version, Runtime())
    assert str(version.parent.parent) not in str(failure.value)
    assert str(failure.value).isprintable()  # in one line


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


@pytest.mark.parametrize("place", ["../shared", "../../..data/digits"])
def test_links_may_lead_anywhere_in_the_folder_of_the_models(version: Path, place: str) -> None:
    link_to(place)(version)
    verify(version, Runtime())


def test_the_folder_of_the_models_may_be_a_link(version: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(version.parent.parent)
    verify(tmp_path / "link" / "digits" / "1", Runtime())


FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL


def tensor(name: str, dtype: int = FLOAT, shape: tuple[int | str, ...] = ("batch", 4)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def graph(
    *nodes: tuple[str, str, str],
    weights: tuple[TensorProto, ...] = (),
    gives: onnx.ValueInfoProto | None = None,
    opset: int = 18,
    ir: int = 10,
) -> bytes:
    """An ONNX file that makes `y` of `x`, both `[batch, 4]`.

    Args:
        nodes: operation, perhaps with its domain before a colon, inputs and outputs.
    """
    made = [
        helper.make_node(kind.split(":")[-1], i.split(), o.split(), domain=kind.rpartition(":")[0])
        for kind, i, o in nodes
    ]
    body = helper.make_graph(made, "g", [tensor("x")], [gives or tensor("y")], list(weights))
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)])
    model.ir_version = ir
    return bytes(model.SerializeToString())


def endless() -> bytes:
    """A graph that makes `y` of `x` in a loop of 10^13 turns."""
    model = onnx.load_from_string(
        graph(
            ("Loop", "turns go x", "y"),
            weights=(numpy_helper.from_array(np.array(10**13), "turns"), numpy_helper.from_array(np.array(True), "go")),
        )
    )
    turn = [helper.make_node("Identity", ["goes"], ["goes_on"]), helper.make_node("Relu", ["last"], ["next"])]
    takes = [tensor("turn", TensorProto.INT64, ()), tensor("goes", BOOL, ()), tensor("last")]
    body = helper.make_graph(turn, "body", takes, [tensor("goes_on", BOOL, ()), tensor("next")])
    model.graph.node[0].attribute.append(helper.make_attribute("body", body))
    return bytes(model.SerializeToString())


def laborious() -> bytes:
    """A graph that adds to `x` a constant, which takes seconds to compute."""
    side = numpy_helper.from_array(np.array([1000, 1000]), "side")
    scale = numpy_helper.from_array(np.array(0, np.float32), "zero")
    powers = [("MatMul", f"p{step} p{step}", f"p{step + 1}") for step in range(100)]
    ends = [("ReduceSum", "p100", "sum"), ("Mul", "sum zero", "nothing"), ("Reshape", "nothing one", "n")]
    one = numpy_helper.from_array(np.array([1]), "one")
    return graph(
        ("ConstantOfShape", "side", "p0"),
        *powers,
        *ends,
        ("Add", "x n", "z"),
        ("Relu", "z", "y"),
        weights=(side, scale, one),
    )


def weights(dtype: type[np.generic] = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.zeros(4, dtype), "w")


def short_weights() -> TensorProto:
    made = weights()
    made.raw_data = made.raw_data[:-3]
    return made


def weights_in(file: str) -> TensorProto:
    made = TensorProto(name="w", data_type=FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    made.external_data.extend(
        onnx.StringStringEntryProto(key=key, value=value) for key, value in (("location", file), ("length", "16"))
    )
    return made


def relu(version: Path, content: bytes) -> Path:
    """A version whose card says that it makes `y` of `x`, float32 `[batch, 4]`, and whose graph is `content`."""
    x, y = (TensorSpec(name=name, dtype="float32", shape=("batch", 4), meaning="", range="") for name in ("x", "y"))
    cases = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    shutil.rmtree(version)
    version.mkdir()
    (version / "model.onnx").write_bytes(content)
    np.savez(version / "golden.npz", allow_pickle=False, **{"in:x": cases, "out:y": np.maximum(cases, 0)})
    card = Card.read(MODELS / "mammogram" / "1")
    changes = {"name": "digits", "inputs": (x,), "outputs": (y,), "files": digests(version)}
    card.model_copy(update=changes).write(version)
    return version


def test_a_sound_graph_is_accepted(version: Path) -> None:
    card, session = verify(relu(version, graph(("Relu", "x", "y"))), Runtime())
    assert (card.outputs[0].name, session.precision, session.provider) == ("y", "float32", "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "No graph", id="empty"),
        pytest.param(graph(("Relu", "x", "y"))[:-5], "Protobuf", id="truncated"),
        pytest.param(graph(("Add", "x b", "a"), ("Relu", "a", "b"), ("Relu", "a", "y")), "not acyclic", id="cycle"),
        pytest.param(graph(("Add", "x nowhere", "y")), "input 'nowhere' is not", id="undefined input"),
        pytest.param(graph(("Relu", "x", "z")), r"output \(y\) does not exist", id="undefined output"),
        pytest.param(graph(("Relu", "x", "y"), ("Sigmoid", "x", "y")), r"Duplicate definition.*\(y\)", id="made twice"),
        pytest.param(graph(("Frobnicate", "x", "y")), "No Op registered for Frobnicate", id="unknown operation"),
        pytest.param(graph(("mine:Op", "x", "y")), "mine:Op.* not a registered", id="operation of a custom domain"),
        pytest.param(graph(("Relu", "x x", "y")), "input size 2", id="too many inputs"),
        pytest.param(graph(("Cast", "x", "y")), "attribute 'to' is missing", id="missing attribute"),
        pytest.param(graph(("Relu", "x", "y"), opset=999), "Opset 999", id="opset of the future"),
        pytest.param(graph(("Relu", "x", "y"), ir=999), "IR version: 999", id="format of the future"),
        pytest.param(graph(("Not", "x", "y"), gives=tensor("y", BOOL)), r"'tensor\(float\)' of", id="wrong type"),
        pytest.param(graph(("Add", "x w", "y"), weights=(weights(np.int64),)), "different types", id="mixed types"),
        pytest.param(graph(("Relu", "x", "y"), gives=tensor("y", BOOL)), "does not match", id="declared type"),
        pytest.param(
            graph(("Relu", "x", "y"), gives=tensor("y", FLOAT, ("batch", 7))),
            "outputs: the graph has",
            id="declared shape",
        ),
        pytest.param(graph(("Relu", "x", "z"), gives=tensor("z")), "outputs: the graph has z", id="another name"),
        pytest.param(graph(("Add", "x w", "y"), weights=(short_weights(),)), "13 bytes", id="weights too short"),
        pytest.param(graph(("Add", "x w", "y"), weights=(weights_in("w.data"),)), "does not exist", id="no weights"),
        pytest.param(
            graph(("Add", "x w", "y"), weights=(weights_in("../../w"),)), "escapes", id="weights out of the folder"
        ),
        pytest.param(
            graph(("Add", "x w", "y"), weights=(weights_in("/etc/passwd"),)), "Absolute", id="weights anywhere"
        ),
        pytest.param(graph(("Sigmoid", "x", "y")), "golden cases: y differs", id="another function"),
        pytest.param(graph(("Frob\nnicate\x1b[31m", "x", "y")), "Frob nicate", id="a name that would forge a log"),
    ],
)
def test_a_graph_that_is_not_sound_is_refused_with_the_reason(version: Path, content: bytes, reason: str) -> None:
    with pytest.raises(VerificationError, match=reason) as failure:
        verify(relu(version, content), Runtime())
    assert str(version.parent.parent) not in str(failure.value)
    assert "onnxruntime" not in str(failure.value)  # of whose source the places mean nothing to a reader
    assert str(failure.value).isprintable()


@pytest.mark.parametrize("content", [pytest.param(endless(), id="loop"), pytest.param(laborious(), id="constants")])
def test_a_graph_that_does_not_end_is_broken_off(version: Path, content: bytes) -> None:
    with pytest.raises(VerificationError, match=r"^golden cases: not done within 0\.2 s$"):
        verify(relu(version, content), Runtime(), seconds=0.2)
