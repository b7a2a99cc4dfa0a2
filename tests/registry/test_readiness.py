"""A server is ready when its workers are all there and serve the same; each of them says so."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import Unavailable
from service.registry.readiness import Readiness
from service.registry.workers import Workers, WorkerStatus
from tests.registry.test_workers import another

BOTH = frozenset({("digits", "1", "a"), ("digits", "2", "b"), ("mammogram", "1", "c")})
ALL = "WorkerStatus(5, True, {}, frozenset({('digits', '1', 'a'), ('digits', '2', 'b'), ('mammogram', '1', 'c')}))"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Workers]:
    """This process, one of two workers."""
    workers = Workers(tmp_path)
    workers.report(WorkerStatus(5, ready=True, serves=BOTH))
    yield workers
    workers.leave()


def said(readiness: Readiness) -> str:
    """Why the server is not ready; nothing if it is."""
    try:
        readiness.check()
    except Unavailable as error:
        return error.detail
    return ""


def test_all_workers_that_there_should_be_are_waited_for(here: Workers, tmp_path: Path) -> None:
    assert said(Readiness(here, 1)) == ""
    assert said(Readiness(here, 2)) == "Not every worker is at work."
    with another(tmp_path, "") as there:  # it has said nothing yet
        assert said(Readiness(here, 2)).startswith("Not every model is ready")
        there.communicate("\n")


@pytest.mark.parametrize(
    ("report", "expected"),
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
def test_workers_that_have_made_the_same_changes_serve_the_same(
    here: Workers, tmp_path: Path, report: str, expected: str
) -> None:
    readiness = Readiness(here, 2)
    with another(tmp_path, f"me.report({report})") as there:
        assert said(readiness).startswith(expected)
        assert bool(said(readiness)) == bool(expected)
        there.communicate("\n")


def test_of_a_model_only_what_some_workers_lack_is_not_ready(here: Workers, tmp_path: Path) -> None:
    readiness = Readiness(here, 2)
    with another(tmp_path, f"me.report({ALL})".replace("('digits', '2', 'b'), ", "")) as there:
        for name, number in (("digits", "1"), ("mammogram", None), ("mammogram", "1")):
            readiness.check_version(name, number)
        for number in ("2", None):
            with pytest.raises(Unavailable, match="Version 2 of model 'digits'"):
                readiness.check_version("digits", number)
        there.communicate("\n")
