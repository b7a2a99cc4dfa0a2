"""The rules that hold in every room: who may import whom, and what is shipped."""

import ast
import json
import re
import subprocess
import sys
from functools import cache

import onnx
import pytest

from service.registry.binding import task
from tests.places import ROOT

PACKAGES = ("service", "training", "load_tests")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted(ROOT.glob(f"{package}/**/*.py"))
}
"""Their files, by name."""

GROUND = "ground"
GROUND_FLOOR = {
    "addresses",
    "context",
    "errors",
    "machine",
    "settings",
    "tensors",
    "tls",
    "traffic_split",
    "version_policy",
}
BELOW: dict[str, dict[str, set[str]]] = {
    "service": {
        "__main__": {"commands", GROUND},
        "bento": {"api", "inference", "observability", "processes", "registry", "tasks", "transport", GROUND},
        "commands": {"engine", "observability", "processes", "registry", GROUND},
        "processes": {GROUND},
        "api": {"engine", "inference", "observability", "registry", "tasks", "transport", GROUND},
        "inference": {"engine", "observability", "registry", "tasks", GROUND},
        "registry": {"engine", "observability", "tasks", GROUND},
        "engine": {"registry", GROUND},
        "tasks": {"observability", "registry", GROUND},
        "observability": {GROUND},
        "transport": set(),
        GROUND: set(),
    },
    "load_tests": {
        "bench": {GROUND},
        "capacity": {"knee", GROUND},
        "gpu": {"bench", GROUND},
        "knee": {GROUND},
        "peers": set(),
        "users": {GROUND},
        GROUND: set(),
    },
}
"""By room of a package, the rooms that it may import; what lies flat is the ground floor, but `__main__` and `app`."""

OF_SERVICE = {
    "training": {"engine", "observability", "registry", "tasks", GROUND},
    "load_tests": {"bento", "engine", "inference", "registry", "tasks", GROUND},
}
"""By package, the rooms of service/ that it may import."""


def room(name: str) -> str:
    """Of the module `PACKAGE.ROOM...`, or of what is in it."""
    package, first = name.split(".")[:2]
    return first if first in BELOW[package] else GROUND


@cache
def imports(module: str) -> frozenset[str]:
    """The modules that it imports, wherever in it, and what it takes from others."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{module} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def behind(module: str) -> set[str]:
    """The modules of the house that it imports, and those that they import, and so on."""
    found: set[str] = set()
    ahead = [module]
    while ahead:
        names = imports(ahead.pop())
        new = ({*names} | {name.rpartition(".")[0] for name in names}) & MODULES.keys() - found
        found |= new
        ahead += new
    return found


def importers(package: str) -> set[str]:
    """The modules, as paths, that import the package or something in it."""
    return {
        str(path.relative_to(ROOT))
        for module, path in MODULES.items()
        if any(f"{name}.".startswith(f"{package}.") for name in imports(module))
    }


def under(*places: str) -> set[str]:
    paths = (str(path.relative_to(ROOT)) for path in MODULES.values())
    return {path for path in paths if path.startswith(places)}


@pytest.mark.parametrize(
    ("package", "rooms"),
    [
        ("torch", ("training/", "load_tests/gpu/")),
        (
            "training",
            (
                *("training/", "load_tests/gpu/models.py"),
                *("load_tests/inputs.py", "load_tests/prepare.py"),  # their data
                *("load_tests/bench/__main__.py", "load_tests/bench/protocol.py"),
            ),
        ),
        ("onnxruntime", ("service/engine/onnx/runtime.py", "load_tests/gpu/ways.py", "load_tests/peers/")),
        ("bentoml", ("service/bento.py", "load_tests/bare.py", "load_tests/peers/")),
        ("_bentoml_sdk", ("service/bento.py",)),
        ("_bentoml_impl", ("service/processes/worker.py",)),
        ("opentelemetry", ("service/observability/tracing.py",)),
        ("uvicorn", ("service/bento.py", "service/transport/connection.py", "load_tests/bare.py")),
        ("httptools", ("service/transport/head.py",)),
        ("load_tests", ("load_tests/",)),
        ("starlette", ("service/bento.py", "service/api/", "service/transport/", "load_tests/bare.py")),
        ("service.bento", ("load_tests/bare.py",)),
        ("service.inference", ("service/", "load_tests/prepare.py")),
    ],
)
def test_only_these_rooms_know(package: str, rooms: tuple[str, ...]) -> None:
    assert importers(package) <= under(*rooms)


@pytest.mark.parametrize("package", BELOW)
def test_a_room_imports_only_rooms_below_it(package: str) -> None:
    for module in MODULES:
        if module.startswith(f"{package}."):
            own = room(module)
            imported = {room(name) for name in imports(module) if name.startswith(f"{package}.")}
            assert imported - {own} <= BELOW[package][own], module


@pytest.mark.parametrize("package", OF_SERVICE)
def test_other_packages_share_only_these_rooms(package: str) -> None:
    modules = (module for module in MODULES if module.startswith(f"{package}."))
    imported = {room(name) for module in modules for name in imports(module) if name.startswith("service.")}
    assert imported <= OF_SERVICE[package]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    assert [module for module in MODULES if module.startswith(f"{package}.") and module in behind(module)] == []


@pytest.mark.parametrize("package", BELOW)
def test_every_room_is_in_the_table(package: str) -> None:
    rooms = {path.parent.name for path in ROOT.glob(f"{package}/*/*.py")}
    assert rooms == BELOW[package].keys() - {"__main__", "bento", GROUND}


def test_the_ground_floor_stays_small() -> None:
    flat = {path.stem for path in ROOT.glob("service/*.py")}
    assert flat == {"__init__", "__main__", "bento", *GROUND_FLOOR}


def test_serving_loads_neither_torch_nor_anything_else_of_training() -> None:
    code = "import sys, json, service.bento; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"torch", "onnx", "onnxscript", "matplotlib", "scipy", "pooch", "training"}


def test_every_task_is_registered_and_its_predictor_is_found_by_its_name() -> None:
    registered = dict(
        re.findall(r"^    (\w+) = endpoint\((\w+)\)$", (ROOT / "service/bento.py").read_text(), re.MULTILINE)
    )
    modules = (path.stem for path in ROOT.glob("service/tasks/*.py") if path.stem not in {"__init__", "base"})
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
