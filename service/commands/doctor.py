"""`python -m service doctor`: say whether the server would start here and be ready, and what it would serve.

It checks the requirements of a start, all of `startup.REQUIREMENTS`, and loads and verifies every version.
"""

import json
import logging
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from service import machine
from service.commands import startup
from service.commands.report import Check, lines
from service.errors import StartupError
from service.settings import PREFIX, Settings, environment_warnings, settings
from service.traffic_split import TrafficSplit

if TYPE_CHECKING:  # without ONNX Runtime they cannot be imported, which is what the doctor says then
    from service.registry.registry import ModelRegistry
    from service.registry.repository import Repository

Report = dict[str, list[Check]]
"""What was found, by what it is about."""


def examine() -> Report:
    """Look at the machine, the settings and the models, as far as what is found allows."""
    logging.basicConfig(format="%(message)s", level=logging.CRITICAL)  # what the log would say, the report does
    report = {"machine": list(_machine())}
    try:
        chosen = settings()
    except StartupError as error:
        return report | {"settings": [Check("settings", str(error), "FAIL"), *_environment()]}
    report["start"] = [_processes(chosen), *(_check(requirement, chosen) for requirement in startup.REQUIREMENTS)]
    # An address that is taken does not keep the models from being looked at: a server may run here already.
    if all(check.subject == startup.ADDRESS for check in report["start"] if check.failed):
        report["machine"] += _runtime()
        report[f"models in {chosen.models_dir}"] = list(_models(chosen))
    return report | {"settings": [*_settings(chosen), *_environment()]}


def show(report: Report, as_json: bool) -> bool:
    """Prints the report. Returns whether the server would start and be ready."""
    ready = not _failed(report)
    if as_json:
        sections = {title: [asdict(check) for check in checks] for title, checks in report.items()}
        print(json.dumps({"ready": ready, **sections}, indent=2))
        return ready
    for title, checks in report.items():
        print(title, *lines(checks), sep="\n")
    print(f"The server would {'start and be ready' if ready else 'not be ready'}.")
    return ready


def _failed(report: Report) -> bool:
    return any(check.failed for checks in report.values() for check in checks)


def _machine() -> Iterator[Check]:
    yield Check("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Check("Python", platform.python_version())
    yield Check("cores", f"{machine.cores()} of the host's {os.cpu_count()}")
    limit = machine.memory()
    yield Check("memory", "unknown" if limit is None else f"{limit / 2**30:.1f} GiB")
    yield Check("GPUs", _gpus())


def _runtime() -> Iterator[Check]:
    """What can run models. Neither answer decides whether the server starts."""
    from service.engine.onnx.session import runtime_found

    both = all(map(startup.installed, ("onnxruntime", "onnxruntime-gpu")))
    hidden = "; onnxruntime and onnxruntime-gpu are both installed, and one hides the other"
    yield Check("ONNX Runtime", f"{runtime_found()}{hidden if both else ''}")
    trouble = startup.trouble_with("cuda")
    yield Check("cuda", "works" if trouble is None else f"does not work: {trouble}")


def _gpus() -> str:
    from service.observability import gpus

    return "; ".join(f"{gpu.number}: {gpu.name}, {gpu.total / 2**30:.1f} GiB" for gpu in gpus.found()) or "none"


def _processes(chosen: Settings) -> Check:
    workers = f"{chosen.workers} worker{'s' if chosen.workers > 1 else ''}"
    return Check("processes", f"{workers}, runs of {chosen.threads} thread{'s' if chosen.threads > 1 else ''}")


def _check(requirement: startup.Requirement, chosen: Settings) -> Check:
    try:
        return Check(requirement.subject, requirement.check(chosen))
    except StartupError as error:
        return Check(requirement.subject, str(error), "FAIL")


def _models(chosen: Settings) -> Iterator[Check]:
    """Loads every version that the server would."""
    from service.registry.binding import task
    from service.registry.layout import scan
    from service.registry.registry import ModelRegistry

    try:
        layout = scan(chosen.models_dir)
    except OSError as error:
        yield Check("folder", f"{PREFIX}MODELS_DIR: {chosen.models_dir}: {error.strerror}", "FAIL")
        return
    if not layout.models:
        yield Check("folder", "there is no model in it", "FAIL")
    predictors = {name: predictor for name in layout.models if (predictor := task(name)) is not None}
    served = ModelRegistry(chosen, predictors)
    for name, numbers in layout.models.items():
        yield from _load(served, name, numbers)
    yield from (Check(name, f"its files are missing ({why})", "FAIL") for name, why in layout.unreadable.items())
    yield from (Check("ignored", reason, "warn") for reason in layout.ignored)
    yield from _unmet(chosen, served.repository)


def _load(served: "ModelRegistry", name: str, numbers: list[str]) -> Iterator[Check]:
    """A model's versions; one that fails is a failure only if there is no other."""
    failures = served.load(name, numbers, None)
    ready = served.repository.ready_versions(name)
    for version in served.repository.versions(name).values():
        subject = f"{name} {version.number}"
        if version.session is not None:
            default = ", answers by default" if version is served.find(name, None).version else ""
            yield Check(subject, f"{version.session.provider}, {version.session.precision}{default}")
        else:
            failed = f"version {version.number}: {version.reason}" in failures
            yield Check(subject, f"not served: {version.reason}", "warn" if failed else "ok")
    if not ready:
        yield Check(name, "none of its versions is served", "FAIL")


def _unmet(chosen: Settings, repository: "Repository") -> Iterator[Check]:
    """What settings say of models and versions that are not served."""
    for setting, models in chosen.by_model.items():
        for name, wanted in models.items():
            ready = [version.number for version in repository.models.get(name, {}).values() if version.session]
            if not ready:
                yield Check(setting, f"names {name}, a model that is not served", "warn")
            elif isinstance(wanted, TrafficSplit) and wanted.version not in ready:
                yield Check(setting, f"names version {wanted.version} of {name}, which is not served", "warn")


def _settings(chosen: Settings) -> Iterator[Check]:
    for name, field in Settings.model_fields.items():
        if name in chosen.model_fields_set:
            source = "environment"
        else:
            source = "default" if field.default_factory is None else "computed"
        yield Check(f"{PREFIX}{name.upper()}", f"{_shown(getattr(chosen, name))} ({source})")


def _shown(value: Any) -> str:
    """The value of a setting, without secrets."""
    if isinstance(value, frozenset) and value and all(isinstance(each, SecretStr) for each in value):
        return f"{len(value)}, hidden"
    if isinstance(value, dict):
        value = "; ".join(f"{model}: {each}" for model, each in value.items())
    if isinstance(value, tuple):
        value = ", ".join(map(str, value))
    return "none" if value in (None, "", frozenset()) else str(value)


def _environment() -> Iterator[Check]:
    return (Check("environment", warning, "warn") for warning in environment_warnings(os.environ))
