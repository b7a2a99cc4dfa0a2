"""Whether the server is ready. Every worker answers from the reports of all workers, so all give the same answer.

The server is not ready while a worker is starting, stopped or hangs, while a worker lacks a model that it needs, or
while workers that have made the same changes serve different versions: the files of a version have been damaged, or
replaced, since the other workers loaded it.
"""

from collections.abc import Collection

from service.errors import Unavailable
from service.registry.workers import Workers, WorkerStatus


class Readiness:
    """The readiness of a server, as one of its workers sees it."""

    def __init__(self, workers: Workers, count: int) -> None:
        """Asks `workers`, of which there should be `count`."""
        self._workers = workers
        self._count = count

    def check(self) -> None:
        """Check that the server is ready.

        Raises:
            Unavailable: a worker is not at work, lacks a model that the server needs, or lacks a version that other
                workers serve.
        """
        reports = self._workers.reports()
        if len(reports) < self._count:
            raise Unavailable("Not every worker is at work.")
        if not all(report.ready for report in reports):
            unavailable = {name: why for report in reports for name, why in report.unavailable.items()}
            named = ", ".join(f"{name} ({why})" for name, why in sorted(unavailable.items()))
            raise Unavailable(f"Not every model is ready{named and f': {named}'}; /v1/models and the log say more.")
        for (name, number), lack in _contested(reports).items():
            raise _not_everywhere(name, number, lack)

    def check_version(self, name: str, number: str | None) -> None:
        """Check that every worker serves a version of a model, or with None the same versions of it.

        Raises:
            Unavailable: another worker does not.
        """
        for (other, contested), lack in _contested(self._workers.reports()).items():
            if other == name and number in (None, contested):
                raise _not_everywhere(name, contested, lack)


def _contested(reports: Collection[WorkerStatus]) -> dict[tuple[str, str], str]:
    """Return the versions, by model and number, in which workers that have made the same changes differ, and how."""
    contested: dict[tuple[str, str], str] = {}
    for generation in {report.generation for report in reports}:
        served = [report.serves for report in reports if report.generation == generation]
        numbers = [{(name, number) for name, number, _ in each} for each in served]
        for name, number, _ in frozenset.union(*served) - frozenset.intersection(*served):
            everywhere = all((name, number) in each for each in numbers)
            contested[name, number] = "the same" if everywhere else "ready"
    return dict(sorted(contested.items()))


def _not_everywhere(name: str, number: str, lack: str) -> Unavailable:
    return Unavailable(f"Version {number} of model {name!r} is not {lack} in every worker.")
