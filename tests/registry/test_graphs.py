"""A version serves only if its graph is valid. An invalid graph is refused with the reason."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.engine.session import Runtime
from service.registry import verification
from service.registry.card import Card, digests
from service.registry.loader import open_verified
from service.registry.verification import VerificationError
from service.tensors import TensorSpec
from tests.paths import MODELS, ROOT


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """Where there will be one."""
    return tmp_path / "models" / "digits" / "1"


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
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(content)
    np.savez(version / "golden.npz", allow_pickle=False, **{"in:x": cases, "out:y": np.maximum(cases, 0)})
    card = Card.read(MODELS / "mammogram" / "1")
    changes = {"name": "digits", "inputs": (x,), "outputs": (y,), "files": digests(version)}
    card.model_copy(update=changes).write(version)
    return version


def test_a_valid_graph_is_accepted(version: Path) -> None:
    card, session = open_verified(relu(version, graph(("Relu", "x", "y"))), Runtime())
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
def test_an_invalid_graph_is_refused_with_the_reason(version: Path, content: bytes, reason: str) -> None:
    with pytest.raises(VerificationError, match=reason) as failure:
        open_verified(relu(version, content), Runtime())
    assert str(version.parent.parent) not in str(failure.value)
    assert "onnxruntime" not in str(failure.value)  # of whose source the places mean nothing to a reader
    assert str(failure.value).isprintable()


@pytest.mark.parametrize("content", [pytest.param(endless(), id="loop"), pytest.param(laborious(), id="constants")])
def test_a_graph_that_does_not_end_is_interrupted(
    version: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "GOLDEN_SECONDS", 0.2)
    with pytest.raises(VerificationError, match=r"^golden cases: not done within 0\.2 s$"):
        open_verified(relu(version, content), Runtime())


def test_a_loaded_version_does_not_need_the_files_of_its_weights(version: Path) -> None:
    """A mapped file that is truncated ends the process that reads it by SIGBUS, so this is another process."""
    relu(version, graph(("Add", "x w", "z"), ("Relu", "z", "y"), weights=(weights_in("w.data"),)))
    (version / "w.data").write_bytes(bytes(16))
    Card.read(version).model_copy(update={"files": digests(version)}).write(version)
    code = f"""
from pathlib import Path
import numpy as np
from service.engine.session import Runtime
from service.registry.loader import open_verified
version = Path({str(version)!r})
_, session = open_verified(version, Runtime())
for file in version.iterdir():
    file.open("wb").close()
print(session.run({{"x": np.ones((1, 4), np.float32)}})["y"].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[[1.0, 1.0, 1.0, 1.0]]\n"), done.stderr
