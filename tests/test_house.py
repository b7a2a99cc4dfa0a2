"""The rules that hold in every room: who may import whom, and what is shipped."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from service.serving.binding import task
from tests.places import ROOT

MODULES = sorted([*ROOT.glob("service/**/*.py"), *ROOT.glob("training/**/*.py")])


GROUND = "ground"
GROUND_FLOOR = {"arrays", "bins", "call", "errors", "machine", "settings", "traffic", "versions"}
BELOW = {
    "__main__": {"app", "commands", "telemetry", GROUND},
    "app": {"http", "serving", "telemetry", "predictors", GROUND},
    "commands": {"serving", "telemetry", "engine", GROUND},
    "http": {"serving", "telemetry", "engine", "predictors", GROUND},
    "serving": {"telemetry", "engine", "predictors", GROUND},
    "engine": {GROUND},
    "predictors": {GROUND},
    "telemetry": {GROUND},
    GROUND: set(),
}
"""By room of service/, the rooms that it may import; what lies flat is the ground floor, but `__main__` and `app`."""


def room(name: str) -> str:
    """Of the module `service.ROOM...`, or of what is in it."""
    first = name.split(".")[1]
    return first if first in BELOW else GROUND


def imports(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{module} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(package: str) -> set[str]:
    """The modules, as paths, that import the package or something in it."""
    return {
        str(module.relative_to(ROOT))
        for module in MODULES
        if any(f"{name}.".startswith(f"{package}.") for name in imports(module))
    }


def under(*places: str) -> set[str]:
    return {str(m.relative_to(ROOT)) for m in MODULES if str(m.relative_to(ROOT)).startswith(places)}


@pytest.mark.parametrize(
    ("package", "rooms"),
    [
        ("torch", ("training/",)),
        ("training", ("training/",)),
        (
            "onnxruntime",
            ("service/engine/inference.py", "service/engine/gpu.py", "service/engine/fixed_shapes.py", "training/"),
        ),
        ("bentoml", ("service/app.py",)),
        ("_bentoml_sdk", ("service/app.py",)),
        ("_bentoml_impl", ("service/app.py",)),
        ("opentelemetry", ("service/telemetry/spans.py",)),
        ("uvicorn", ("service/app.py", "service/http/connection.py")),
        ("httptools", ("service/http/parsing.py",)),
        ("load_tests", ()),
        ("starlette", ("service/app.py", "service/http/")),
    ],
)
def test_only_these_rooms_know(package: str, rooms: tuple[str, ...]) -> None:
    assert importers(package) <= under(*rooms)


@pytest.mark.parametrize("module", sorted(ROOT.glob("service/**/*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_rooms_below_it(module: Path) -> None:
    own = room(".".join(module.relative_to(ROOT).with_suffix("").parts))
    imported = {room(name) for name in imports(module) if name.startswith("service.")}
    assert imported - {own} <= BELOW[own]


def test_training_shares_only_the_engine_the_predictors_and_the_ground_floor() -> None:
    imported = {
        room(name)
        for module in ROOT.glob("training/**/*.py")
        for name in imports(module)
        if name.startswith("service.")
    }
    assert imported <= {"engine", "predictors", GROUND}


def test_every_room_is_in_the_table_and_the_ground_floor_stays_small() -> None:
    rooms = {path.parent.name for path in ROOT.glob("service/*/__init__.py")}
    flat = {path.stem for path in ROOT.glob("service/*.py")}
    assert rooms | {"__main__", "app", GROUND} == set(BELOW)
    assert flat == {"__init__", "__main__", "app", *GROUND_FLOOR}


def test_serving_loads_neither_torch_nor_anything_else_of_training() -> None:
    code = "import sys, json, service.app; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"torch", "onnx", "onnxscript", "matplotlib", "scipy", "pooch", "training"}


def test_every_task_is_registered_and_its_predictor_is_found_by_its_name() -> None:
    registered = dict(
        re.findall(r"^    (\w+) = endpoint\((\w+)\)$", (ROOT / "service/app.py").read_text(), re.MULTILINE)
    )
    modules = (path.stem for path in ROOT.glob("service/predictors/*.py") if path.stem != "__init__")
    found = {name: predictor.__name__ for name in modules if (predictor := task(name)) is not None}
    assert found == registered


def test_the_models_together_are_under_40_megabytes() -> None:
    assert sum(path.stat().st_size for path in ROOT.glob("models/*/*/*")) < 40e6


def test_no_graph_keeps_its_weights_or_traces_of_its_maker_elsewhere() -> None:
    for graph in [*ROOT.glob("models/*/*/model*.onnx"), ROOT / "training" / "fashion_judge.onnx"]:
        assert not list(graph.parent.glob("*.data"))
        nodes = onnx.load(graph).graph.node
        assert nodes
        assert not any(node.metadata_props or node.doc_string for node in nodes)
