"""Whether the server is ready. Every worker decides from the statuses of all workers, so all give the same answer.

The server is not ready while a worker is starting or stale, or lacks a model that the server needs, or while workers at
the same generation have loaded different versions: the files of a version were damaged or replaced after some workers
had loaded it.
"""

from collections.abc import Iterable, Mapping

from service.errors import Unavailable
from service.registry.versions import FILES_MISSING, FailedVersion, Model
from service.registry.workers import Spec, Workers, WorkerStatus


def worker_status(
    models: Mapping[str, Model], spec: Spec, failures: dict[str, dict[str, str]], strict: bool
) -> WorkerStatus:
    """Return the status of a worker.

    Args:
        models: of the worker.
        spec: the desired state, which the worker has reconciled.
        failures: by model and version, why the version could not be loaded.
        strict: whether the server needs every model, and not only those found at start or loaded before.
    """
    loaded = [version for model in models.values() for version in model.loaded]
    names = {version.name for version in loaded}
    unavailable = {
        name: _why_unavailable(models[name])
        for name, model in spec.models.items()
        if model.loaded and name not in names and (strict or model.found_at_start or name in spec.proven)
    }
    return WorkerStatus(
        generation=spec.generation,
        ready=not unavailable and any(name in names or not model.loaded for name, model in spec.models.items()),
        unavailable=unavailable,
        loaded=frozenset((version.name, version.number, version.card.content) for version in loaded),
        failures=failures,
    )


def _why_unavailable(model: Model) -> str:
    """Return why no version of a model is loaded, fit for clients without a key."""
    failed = [version for version in model.versions.values() if isinstance(version, FailedVersion)]
    return FILES_MISSING if all(version.is_missing for version in failed) else "no version has proved itself"


class Readiness:
    """The readiness of the server, as seen by one of its workers."""

    def __init__(self, workers: Workers, count: int) -> None:
        """Check `workers`, of which there should be `count`."""
        self._workers = workers
        self._count = count

    def check(self) -> None:
        """Check that the server is ready.

        Raises:
            Unavailable: a worker is starting or stale, lacks a model that the server needs, or lacks a version that
                other workers have loaded.
        """
        statuses = self._workers.statuses().values()
        if len(statuses) < self._count:
            raise Unavailable("Not every worker is at work.")
        if not all(status.ready for status in statuses):
            unavailable = {name: reason for status in statuses for name, reason in status.unavailable.items()}
            named = ", ".join(f"{name} ({reason})" for name, reason in sorted(unavailable.items()))
            raise Unavailable(f"Not every model is ready{named and f': {named}'}; /v1/models and the log say more.")
        for difference in _differences(statuses).values():
            raise Unavailable(difference)

    def check_version(self, name: str, number: str | None) -> None:
        """Check that every worker has loaded a version of a model, or with None the same versions of it.

        Raises:
            Unavailable: another worker has not.
        """
        for (model, version), difference in _differences(self._workers.statuses().values()).items():
            if model == name and number in (None, version):
                raise Unavailable(difference)


def _differences(statuses: Iterable[WorkerStatus]) -> dict[tuple[str, str], str]:
    """Return how workers at the same generation differ, by model and version."""
    generations: dict[int, list[WorkerStatus]] = {}
    for status in statuses:
        generations.setdefault(status.generation, []).append(status)
    differences: dict[tuple[str, str], str] = {}
    for group in generations.values():
        loaded = [status.loaded for status in group]
        for name, number, _ in sorted(frozenset.union(*loaded) - frozenset.intersection(*loaded)):
            everywhere = all(any(each[:2] == (name, number) for each in versions) for versions in loaded)
            lacking = "the same" if everywhere else "ready"
            differences[name, number] = f"Version {number} of model {name!r} is not {lacking} in every worker."
    return differences
