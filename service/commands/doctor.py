"""`python -m service doctor`: report whether the server would start here and be ready, and what it would serve.

It checks `startup.REQUIREMENTS`, and loads and verifies every version.
"""

import json
import logging
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SecretStr

from service import machine
from service.commands import startup
from service.errors import StartupError
from service.settings import PREFIX, Settings, environment_warnings, settings
from service.traffic_split import TrafficSplit

if TYPE_CHECKING:  # cannot be imported without ONNX Runtime, whose absence is reported
    from service.registry.registry import ModelRegistry

Verdict = Literal["ok", "warn", "FAIL"]
"""FAIL makes the command fail."""


@dataclass(frozen=True)
class Check:
    """One line of the report of `doctor` or `verify`."""

    subject: str
    finding: str
    verdict: Verdict = "ok"

    @property
    def failed(self) -> bool:
        """Whether it makes the command fail."""
        return self.verdict == "FAIL"


Report = dict[str, list[Check]]
"""Checks by section."""


def table(checks: Iterable[Check]) -> list[str]:
    """Return checks as lines of a table: verdict, subject and finding."""
    rows = list(checks)
    width = max((len(row.subject) for row in rows), default=0)
    indent = "\n" + " " * (width + 10)
    return [
        f"  {row.verdict:4}  {row.subject:{width}}  {row.finding.replace(chr(10), indent)}".rstrip() for row in rows
    ]


def examine() -> Report:
    """Check the machine, the settings and the models, as far as possible."""
    logging.basicConfig(format="%(message)s", level=logging.CRITICAL)  # the report has what the log would have
    report = {"machine": list(_machine())}
    try:
        chosen = settings()
    except StartupError as error:
        return report | {"settings": [Check("settings", str(error), "FAIL"), *_environment()]}
    report["start"] = [_processes(chosen), *(_check(requirement, chosen) for requirement in startup.REQUIREMENTS)]
    # The models are checked even if the address is taken: a server may be running here already.
    if all(check.subject == startup.ADDRESS for check in report["start"] if check.failed):
        report["machine"] += _runtime()
        report[f"models in {chosen.models_dir}"] = list(_models(chosen))
    return report | {"settings": [*_settings(chosen), *_environment()]}


def show(report: Report, as_json: bool) -> bool:
    """Print the report. Return whether the server would start and be ready."""
    ready = not any(check.failed for checks in report.values() for check in checks)
    if as_json:
        sections = {title: [asdict(check) for check in checks] for title, checks in report.items()}
        print(json.dumps({"ready": ready, **sections}, indent=2))
        return ready
    for title, checks in report.items():
        print(title, *table(checks), sep="\n")
    print(f"The server would {'start and be ready' if ready else 'not be ready'}.")
    return ready


def _machine() -> Iterator[Check]:
    yield Check("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Check("Python", platform.python_version())
    yield Check("cores", f"{machine.cores()} of the host's {os.cpu_count()}")
    limit = machine.memory()
    yield Check("memory", "unknown" if limit is None else f"{limit / 2**30:.1f} GiB")


def _runtime() -> Iterator[Check]:
    """Report what can run models. None of it decides whether the server starts."""
    from service.engine.onnx.session import installed_runtime

    both = all(map(startup.installed, ("onnxruntime", "onnxruntime-gpu")))
    hidden = "; onnxruntime and onnxruntime-gpu are both installed, and one hides the other"
    yield Check("ONNX Runtime", f"{installed_runtime()}{hidden if both else ''}")
    failure = startup.gpu_failure("cuda")
    yield Check("cuda", "works" if failure is None else f"does not work: {failure}")
    yield Check("GPUs", _gpus())


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
    """Load every version that the server would load."""
    from service.inference.binding import bind
    from service.registry.layout import scan
    from service.registry.registry import ModelRegistry

    try:
        layout = scan(chosen.models_dir)
    except OSError as error:
        yield Check("folder", f"{PREFIX}MODELS_DIR: {chosen.models_dir}: {error.strerror}", "FAIL")
        return
    if not layout.models:
        yield Check("folder", "there is no model in it", "FAIL")
    registry = ModelRegistry(chosen, bind)
    for name, numbers in layout.models.items():
        registry.load(name, numbers)
        yield from _versions(registry, name)
    yield from (Check(name, f"its files are missing ({cause})", "FAIL") for name, cause in layout.unreadable.items())
    yield from (Check("ignored", reason, "warn") for reason in layout.ignored)
    yield from _ineffective_settings(chosen, registry)


def _versions(registry: "ModelRegistry", name: str) -> Iterator[Check]:
    """Report the versions of a model. It is a failure if none could be loaded."""
    from service.registry.versions import FailedVersion, LoadedVersion

    model = registry.model(name)
    for version in model.versions.values():
        subject = f"{name} {version.number}"
        if isinstance(version, LoadedVersion):
            default = ", answers by default" if version is model.default else ""
            yield Check(subject, f"{version.session.provider}, {version.session.precision}{default}")
        else:
            verdict: Verdict = "warn" if isinstance(version, FailedVersion) else "ok"
            yield Check(subject, f"not served: {version.reason}", verdict)
    if not model.loaded:
        yield Check(name, "none of its versions is served", "FAIL")


def _ineffective_settings(chosen: Settings, registry: "ModelRegistry") -> Iterator[Check]:
    """Report settings that name models or versions that are not served."""
    for setting, models in chosen.by_model.items():
        for name, value in models.items():
            loaded = [version.number for version in registry.models[name].loaded] if name in registry.models else []
            if not loaded:
                yield Check(setting, f"names {name}, a model that is not served", "warn")
            elif isinstance(value, TrafficSplit) and value.version not in loaded:
                yield Check(setting, f"names version {value.version} of {name}, which is not served", "warn")


def _settings(chosen: Settings) -> Iterator[Check]:
    for name, field in Settings.model_fields.items():
        if name in chosen.model_fields_set:
            source = "environment"
        else:
            source = "default" if field.default_factory is None else "computed"
        yield Check(f"{PREFIX}{name.upper()}", f"{_shown(getattr(chosen, name))} ({source})")


def _shown(value: Any) -> str:
    """Format the value of a setting, without secrets."""
    if isinstance(value, frozenset) and value and all(isinstance(each, SecretStr) for each in value):
        return f"{len(value)}, hidden"
    if isinstance(value, dict):
        value = "; ".join(f"{model}: {each}" for model, each in value.items())
    if isinstance(value, tuple):
        value = ", ".join(map(str, value))
    return "none" if value in (None, "", frozenset()) else str(value)


def _environment() -> Iterator[Check]:
    return (Check("environment", warning, "warn") for warning in environment_warnings(os.environ))
