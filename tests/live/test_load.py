"""Load tests of the real server: users of every task, and a failing run that reports its reason."""

import csv
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from load_tests.knee.round import Target
from load_tests.prepare import main as prepare
from load_tests.questions import TASKS, Question, read
from tests.live.conftest import clean_environment
from tests.paths import ROOT


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a few questions of every task."""
    path = tmp_path_factory.mktemp("load") / "questions.jsonl"
    prepare(["--count", "24", "--out", str(path)])
    return path


def locust(server: str, questions: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a load test of ten seconds; its reports are written beside the questions."""
    command = [sys.executable, "-m", "locust", "--config", "load_tests/users/locust.conf", "--host", server]
    files = ["--questions", questions, "--html", questions.with_name("load.html"), "--csv", questions.with_name("load")]
    return subprocess.run(
        [*command, *map(str, files), "--run-time", "10s", "--users", "10", *options],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_concurrent_users_of_every_task_get_their_own_correct_responses(server: str, questions: Path) -> None:
    easy = ",".join(f"{task}=10000" for task in TASKS)
    done = locust(server, questions, "--processes", "2", "--shape", "soak", "--slo-growth", "1000", "--slo-p99", easy)
    assert done.returncode == 0, done.stderr
    assert "Memory: " in done.stderr
    with questions.with_name("load_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {*TASKS, "Aggregated"}
    assert all(int(row["Request Count"]) > 0 == int(row["Failure Count"]) for row in rows.values())
    assert "<html" in questions.with_name("load.html").read_text()


def test_a_load_test_that_misses_objectives_fails_and_names_them(server: str, questions: Path) -> None:
    unkept = ("--slo-p99", "digits=0.001", "--slo-growth", "-1000")
    done = locust(server, questions, "--shape", "soak", *unkept, "DigitsUser")
    assert done.returncode == 1
    assert "SLO breached: digits: p99 is" in done.stderr
    assert "SLO breached: the server's memory has grown by" in done.stderr


def test_a_response_to_another_request_is_detected(client: httpx.Client, questions: Path) -> None:
    for asked in read(questions).values():
        answers = [_ask(client, question) for question in asked]
        assert [one.fault(200, one.name, own) for one, own in zip(asked, answers, strict=True)] == [None] * len(asked)
        others = zip(asked, [*answers[1:], answers[0]], strict=True)
        noticed = [one.fault(200, one.name, other) is not None for one, other in others]
        assert sum(noticed) >= 0.9 * len(asked), "only masses may be so alike that their answers are"


def _ask(client: httpx.Client, question: Question) -> bytes:
    headers = {**question.headers, "X-Request-ID": question.name}
    return client.post(question.path, content=question.body, headers=headers).content


def test_the_servers_histogram_counts_the_requests_of_an_open_loop(server: str, questions: Path) -> None:
    target = Target(server, read(questions)["mammogram"], process=None, seconds=1.0)
    seen = target.round(100.0, seed=0)
    assert seen.failed == 0, seen.fault
    assert seen.requests == seen.server_requests > 0
    assert 0 < seen.server_mean <= seen.mean
    low, high = seen.server_p99
    assert low < high
    assert seen.p50 <= seen.p99
    assert target.most_per_second(4) > 0
    assert len(target.lone_ms()) == len(target.questions)
