"""A server is ready when all its workers live and have loaded the same versions. Each worker says so."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import Unavailable
from service.registry.readiness import Readiness
from service.registry.workers import Workers, WorkerStatus
from tests.registry.test_workers import another

LOADED = frozenset({("digits", "1", "a"), ("digits", "2", "b"), ("mammogram", "1", "c")})
ALL = "WorkerStatus(5, True, {}, frozenset({('digits', '1', 'a'), ('digits', '2', 'b'), ('mammogram', '1', 'c')}))"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Workers]:
    """This process, one of two workers."""
    workers = Workers(tmp_path)
    workers.join()
    workers.report(WorkerStatus(5, ready=True, loaded=LOADED))
    yield workers
    workers.leave()


def reason(readiness: Readiness) -> str:
    """Why the server is not ready; empty if it is."""
    try:
        readiness.check()
    except Unavailable as error:
        return error.detail
    return ""


def test_every_worker_is_needed(here: Workers, tmp_path: Path) -> None:
    assert reason(Readiness(here, 1)) == ""
    assert reason(Readiness(here, 2)) == "Not every worker is at work."
    with another(tmp_path, "") as there:  # it has reported nothing yet
        assert reason(Readiness(here, 2)).startswith("Not every model is ready")
        there.communicate("\n")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (ALL, ""),
        (ALL.replace("('digits', '2', 'b'), ", ""), "Version 2 of model 'digits' is not ready in every worker"),
        (ALL.replace("'b'", "'another'"), "Version 2 of model 'digits' is not the same in every worker"),
        (ALL.replace("('digits', '2', 'b'), ", "").replace("5", "6"), ""),  # a change is under way
        (ALL.replace("True", "False"), "Not every model is ready; "),
        (
            ALL.replace("True, {}", "False, {'mammogram': 'its files are missing'}"),
            "Not every model is ready: mammogram (its files are missing); ",
        ),
    ],
)
def test_workers_at_the_same_generation_must_have_loaded_the_same(
    here: Workers, tmp_path: Path, status: str, expected: str
) -> None:
    readiness = Readiness(here, 2)
    with another(tmp_path, f"me.report({status})") as there:
        assert reason(readiness).startswith(expected)
        assert bool(reason(readiness)) == bool(expected)
        there.communicate("\n")


def test_a_version_is_ready_if_every_worker_has_loaded_it(here: Workers, tmp_path: Path) -> None:
    readiness = Readiness(here, 2)
    with another(tmp_path, f"me.report({ALL})".replace("('digits', '2', 'b'), ", "")) as there:
        for name, number in (("digits", "1"), ("mammogram", None), ("mammogram", "1")):
            readiness.check_version(name, number)
        for number in ("2", None):
            with pytest.raises(Unavailable, match="Version 2 of model 'digits'"):
                readiness.check_version("digits", number)
        there.communicate("\n")
