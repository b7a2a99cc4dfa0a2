"""The rules of the architecture: which package may import which, and what is shipped. Imports come from parsed code."""

import ast
import json
import subprocess
import sys
from functools import cache

import onnx
import pytest

from service.tasks import TASKS
from tests.paths import ROOT

PACKAGES = ("service", "training", "load_tests")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted(ROOT.glob(f"{package}/**/*.py"))
}
"""By name, the file of every module."""

BASE = "base"
"""The modules that every part of their package may import: those directly in the package."""
BASE_MODULES = {
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
MAY_IMPORT: dict[str, dict[str, set[str]]] = {
    "service": {
        "__main__": {"commands", BASE},
        "bento": {
            *("api", "engine", "inference", "observability", "processes", "registry", "tasks", "transport", BASE),
        },
        "commands": {"engine", "inference", "observability", "processes", "registry", "tasks", BASE},
        "api": {"inference", "observability", "registry", "tasks", "transport", BASE},
        "inference": {"engine", "observability", "registry", "tasks", BASE},
        "registry": {"engine", "observability", BASE},
        "engine": {"observability", BASE},
        "tasks": {BASE},
        "observability": {BASE},
        "processes": {BASE},
        "transport": set(),
        BASE: set(),
    },
    "load_tests": {
        "bench": {BASE},
        "capacity": {"knee", BASE},
        "gpu": {"bench", BASE},
        "knee": {BASE},
        "peers": set(),
        "users": {BASE},
        BASE: set(),
    },
}
"""By package and part, the other parts of the package that it may import."""

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""Imports between parts of service/ that still break the table, and who removes them. A test fails if one is stale."""

SHARED_WITH = {
    "training": {"engine", "observability", "registry", "tasks", BASE},
    "load_tests": {"bento", "engine", "inference", "registry", "tasks", BASE},
}
"""By package, the parts of service/ that it may import."""

ONLY_IMPORTERS = [
    ("torch", ("training/", "load_tests/gpu/")),
    (
        "training",
        (
            "training/",
            "load_tests/gpu/models.py",
            "load_tests/inputs.py",
            "load_tests/prepare.py",
            "load_tests/bench/__main__.py",
            "load_tests/bench/protocol.py",
        ),
    ),
    ("onnxruntime", ("service/engine/onnx/", "load_tests/gpu/ways.py", "load_tests/peers/")),
    ("bentoml", ("service/bento.py", "load_tests/bare.py", "load_tests/peers/")),
    ("_bentoml_sdk", ("service/bento.py",)),
    ("_bentoml_impl", ("service/processes/worker.py",)),
    ("opentelemetry", ("service/observability/",)),
    ("prometheus_client", ("service/observability/", "load_tests/")),
    ("uvicorn", ("service/bento.py", "service/transport/connection.py", "load_tests/bare.py")),
    ("httptools", ("service/transport/head.py",)),
    ("starlette", ("service/bento.py", "service/api/", "service/transport/", "load_tests/bare.py")),
    ("load_tests", ("load_tests/",)),
    ("service.bento", ("load_tests/bare.py",)),
    ("service.tasks", ("service/", "training/", "load_tests/")),
]
"""Packages that only these files or directories may import."""


def part(name: str) -> str:
    """Return the part of a package that a module, or an object in it, belongs to."""
    package, first = name.split(".")[:2]
    return first if first in MAY_IMPORT[package] else BASE


@cache
def imports(module: str) -> frozenset[str]:
    """Return the modules that a module imports anywhere in its code, and the names that it imports from them."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{module} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def imported_parts(package: str) -> set[tuple[str, str, str]]:
    """Return part, imported part and module for all imports between different parts of a package."""
    return {
        (part(module), part(name), module)
        for module in MODULES
        if module.startswith(f"{package}.")
        for name in imports(module)
        if name.startswith(f"{package}.") and part(name) != part(module)
    }


def dependencies(module: str) -> set[str]:
    """Return the modules of these packages that a module imports, directly or indirectly."""
    found: set[str] = set()
    ahead = [module]
    while ahead:
        names = imports(ahead.pop())
        new = ({*names} | {name.rpartition(".")[0] for name in names}) & MODULES.keys() - found
        found |= new
        ahead += new
    return found


@pytest.mark.parametrize(("package", "places"), ONLY_IMPORTERS)
def test_a_package_is_imported_only_where_it_belongs(package: str, places: tuple[str, ...]) -> None:
    importers = {
        str(path.relative_to(ROOT))
        for module, path in MODULES.items()
        if any(f"{name}.".startswith(f"{package}.") for name in imports(module))
    }
    assert {path for path in importers if not path.startswith(places)} == set()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_each_part_imports_only_parts_below_it(package: str) -> None:
    allowed = MAY_IMPORT[package]
    wrong = {
        (own, other, module)
        for own, other, module in imported_parts(package)
        if other not in allowed[own] and (own, other) not in EXCEPTIONS
    }
    assert wrong == set()


def test_every_exception_is_still_needed() -> None:
    broken = {(own, other) for own, other, _ in imported_parts("service") if other not in MAY_IMPORT["service"][own]}
    assert EXCEPTIONS.keys() - broken == set()


@pytest.mark.parametrize("package", SHARED_WITH)
def test_other_packages_import_only_the_shared_parts_of_service(package: str) -> None:
    modules = (module for module in MODULES if module.startswith(f"{package}."))
    imported = {part(name) for module in modules for name in imports(module) if name.startswith("service.")}
    assert imported <= SHARED_WITH[package]


@pytest.mark.parametrize("package", PACKAGES)
def test_there_are_no_import_cycles(package: str) -> None:
    cyclic = [module for module in MODULES if module.startswith(f"{package}.") and module in dependencies(module)]
    assert cyclic == []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_the_table_has_every_part(package: str) -> None:
    parts = {path.parent.name for path in ROOT.glob(f"{package}/*/*.py")}
    assert parts == MAY_IMPORT[package].keys() - {"__main__", "bento", BASE}


def test_service_has_only_these_base_modules() -> None:
    modules = {path.stem for path in ROOT.glob("service/*.py")}
    assert modules == {"__init__", "__main__", "bento", *BASE_MODULES}


def test_a_worker_loads_no_package_of_training_and_serves_every_task() -> None:
    code = """
import json, sys
from service.bento import DeepServe
print(json.dumps([sorted(sys.modules), sorted(DeepServe.apis)]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded, endpoints = json.loads(done.stdout)
    assert not {*loaded} & {"torch", "onnx", "onnxscript", "matplotlib", "scipy", "pooch", "training"}
    assert endpoints == sorted(TASKS)


def test_every_task_class_is_registered() -> None:
    classes = {
        node.name
        for path in ROOT.glob("service/tasks/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("Task[") for base in node.bases)
    }
    assert classes == {task.__name__ for task in TASKS.values()}


def test_all_models_together_have_less_than_40_megabytes() -> None:
    assert sum(path.stat().st_size for path in ROOT.glob("models/*/*/*")) < 40e6


def test_a_graph_contains_its_weights_and_no_metadata_of_its_exporter() -> None:
    for graph in [*ROOT.glob("models/*/*/model*.onnx"), ROOT / "training" / "fashion" / "judge.onnx"]:
        assert not list(graph.parent.glob("*.data"))
        nodes = onnx.load(graph).graph.node
        assert nodes
        assert not any(node.metadata_props or node.doc_string for node in nodes)
