"""Whether the server is ready: all its workers, as they have reported it, so that each of them says the same.

It is not while one is starting, stopped or hangs, nor while workers that have made the same changes serve different
versions: the files of one have been damaged since the others loaded it, say.
"""

from collections.abc import Collection

from service.errors import Unavailable
from service.serving.workers import Report, Workers


class Readiness:
    """The readiness of a server, as one of its workers sees it."""

    def __init__(self, workers: Workers, count: int) -> None:
        """Asks `workers`, of which there should be `count`."""
        self._workers = workers
        self._count = count

    def check(self) -> None:
        """Lets those pass who ask whether the server is ready.

        Raises:
            Unavailable: a worker is not at work, or lacks a model or a version that others serve.
        """
        reports = self._workers.reports()
        if len(reports) < self._count:
            raise Unavailable("Not every worker is at work.")
        if not all(report.ready for report in reports):
            raise Unavailable("Not every model is ready; /v1/models says which and why.")
        for name, number in _contested(reports):
            raise _not_everywhere(name, number)

    def check_version(self, name: str, number: str | None) -> None:
        """Lets those pass who ask whether a version of a model is ready that this worker serves; None is for all.

        Raises:
            Unavailable: another worker does not serve it.
        """
        for other, contested in _contested(self._workers.reports()):
            if other == name and number in (None, contested):
                raise _not_everywhere(name, contested)


def _contested(reports: Collection[Report]) -> list[tuple[str, str]]:
    """The versions, by model and number, that some workers serve and others do not that have made the same changes."""
    contested: set[tuple[str, str]] = set()
    for generation in {report.generation for report in reports}:
        served = [report.serves for report in reports if report.generation == generation]
        contested |= frozenset.union(*served) - frozenset.intersection(*served)
    return sorted(contested)


def _not_everywhere(name: str, number: str) -> Unavailable:
    return Unavailable(f"Version {number} of model {name!r} is not ready in every worker.")
