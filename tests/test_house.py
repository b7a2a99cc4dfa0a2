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

from service.binding import task

ROOT = Path(__file__).parent.parent
MODULES = sorted([*ROOT.glob("service/**/*.py"), *ROOT.glob("training/**/*.py")])


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
        ("opentelemetry", ("service/telemetry.py",)),
        ("uvicorn", ("service/app.py", "service/http/connection.py")),
        ("httptools", ("service/http/connection.py",)),
        ("load_tests", ()),
        ("starlette", ("service/app.py", "service/http/")),
        ("service.app", ("service/__main__.py",)),
        ("service.http", ("service/app.py", "service/http/")),
        (
            "service.engine",
            (
                "service/startup.py",
                "service/binding.py",
                "service/lint.py",
                "service/doctor.py",
                "service/app.py",
                "service/serving.py",
                "service/shadow.py",
                "service/control.py",
                "service/http/",
                "service/engine/",
                "training/",
            ),
        ),
        (
            "service.predictors",
            (
                "service/app.py",
                "service/binding.py",
                "service/serving.py",
                "service/shadow.py",
                "service/http/",
                "service/predictors/",
                "training/",
            ),
        ),
    ],
)
def test_only_these_rooms_know(package: str, rooms: tuple[str, ...]) -> None:
    assert importers(package) <= under(*rooms)


def test_the_ground_floor_imports_none_of_the_floors_above() -> None:
    for module in (
        "settings.py",
        "errors.py",
        "metrics.py",
        "series.py",
        "logs.py",
        "telemetry.py",
        "board.py",
        "call.py",
        "draining.py",
        "machine.py",
        "names.py",
        "policy.py",
        "workers.py",
        "traffic.py",
        "arrays.py",
    ):
        above = ("service.app", "service.http", "service.engine", "service.predictors")
        assert not [name for name in imports(ROOT / "service" / module) if name.startswith(above)]


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
