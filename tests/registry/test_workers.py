"""What workers tell each other reaches all of them, and a dead one is not waited for."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.registry import workers
from service.registry.workers import ModelSpec, Workers, WorkerStatus
from tests.paths import ROOT


def another(folder: Path, code: str) -> subprocess.Popen[str]:
    """A process that joins as `me`, runs `code`, says so and waits."""
    program = f"""
from pathlib import Path
from service.registry.workers import *
me = Workers(Path({str(folder)!r}))
{code}
print("done", flush=True)
input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"
    return process


def generations(workers: Workers) -> list[int]:
    return sorted(report.generation for report in workers.reports())


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Workers]:
    """This process, among the workers that share a folder."""
    joined = Workers(tmp_path)
    yield joined
    joined.leave()
    assert joined.reports() == []


def test_every_living_worker_is_heard(here: Workers, tmp_path: Path) -> None:
    here.report(WorkerStatus(1, ready=True))
    with another(tmp_path, "me.report(WorkerStatus(2, ready=False, failures={'digits': 'no'}))") as there:
        assert generations(here) == [1, 2]
        there.kill()
        there.wait()
        assert here.reports() == [WorkerStatus(1, ready=True)]
    assert {path.name.split("-")[0] for path in tmp_path.glob("*.json")} == {"worker"}
    assert len(list(tmp_path.glob("worker-*"))) == 2  # of this one


def test_one_that_lives_and_is_silent_is_not_waited_for(
    here: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SILENCE", 0.5)
    here.report(WorkerStatus(1))
    with another(tmp_path, "me.report(WorkerStatus(2))") as there:
        time.sleep(1.2 * workers.SILENCE)
        assert len(here.reports()) == 2, "one that starts has shown no life yet, and is waited for"
        there.communicate("\n")
    code = "import threading, time\nme.report(WorkerStatus(3))\nme.beat()"
    forever = "threading.Thread(target=lambda: [(me.beat(), time.sleep(0.1)) for _ in range(600)], daemon=True).start()"
    with another(tmp_path, f"{code}\n{forever}") as there:
        time.sleep(1.2 * workers.SILENCE)
        wait_until(lambda: generations(here) == [1, 3] and not here.silent())
        there.send_signal(signal.SIGSTOP)
        wait_until(lambda: generations(here) == [1])
        assert here.silent() == {f"worker-{there.pid}"}
        there.send_signal(signal.SIGCONT)
        wait_until(lambda: generations(here) == [1, 3] and not here.silent())
        there.communicate("\n")


def test_one_that_keeps_its_turn_is_not_waited_for_without_end(
    here: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SILENCE", 0.5)
    with another(tmp_path, "turn = me.turn()\nturn.__enter__()") as there:
        began = time.monotonic()
        with here.turn():
            assert time.monotonic() - began >= workers.SILENCE
        there.kill()
    with here.turn():
        pass


def test_one_that_has_said_nothing_yet_is_not_ready(here: Workers) -> None:
    assert here.reports() == [WorkerStatus()]
    assert not WorkerStatus().ready


def test_what_one_wants_all_read(here: Workers, tmp_path: Path) -> None:
    assert here.wanted().models == {}
    before = here.last_change()
    with another(tmp_path, "me.change(lambda models: {'digits': ModelSpec({'1': 'a'}, policy=[1])})") as there:
        there.communicate("\n")
    assert here.wanted().models == {"digits": ModelSpec({"1": "a"}, generation=1, policy=[1])}
    assert here.last_change() != before
    assert here.change(lambda _models: {}) == 1  # nothing changed
    assert here.change(lambda _models: {"digits": None, "letters": ModelSpec({})}) == 2
    assert list(here.wanted().models) == ["letters"]


def test_one_that_keeps_others_from_changes_is_not_waited_for_without_end(
    here: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "SILENCE", 0.5)
    code = "import time\nme.change(lambda models: (print('done', flush=True), time.sleep(60)))"
    with another(tmp_path, code) as there:
        with pytest.raises(TimeoutError, match=r"change\.lock"):
            here.change(lambda _models: {"digits": ModelSpec({})})
        there.kill()
    assert here.change(lambda _models: {"digits": ModelSpec({})}) == 1


def test_files_that_somebody_has_taken_away_are_made_anew(here: Workers, tmp_path: Path) -> None:
    here.change(lambda _models: {"digits": ModelSpec({"1": "a"})})
    here.beat()
    for path in tmp_path.iterdir():
        path.unlink()
    assert list(here.wanted().models) == ["digits"]
    assert here.reports() == []
    here.beat()
    assert here.reports() == [WorkerStatus()]
    assert here.change(lambda _models: {"letters": ModelSpec({})}) == 2
    assert list(here.wanted().models) == ["digits", "letters"]


def test_changes_at_the_same_time_are_all_made(here: Workers, tmp_path: Path) -> None:
    code = """
import os
for number in range(50):
    me.change(lambda models: {f"{os.getpid()}-{number}": ModelSpec({})})
"""
    others = [another_at_once(tmp_path, code) for _ in range(3)]
    for each in others:
        assert each.wait(30) == 0
    wanted = here.wanted()
    assert wanted.generation == len(wanted.models) == 150


def another_at_once(folder: Path, code: str) -> subprocess.Popen[bytes]:
    """A process that joins as `me`, runs `code` and ends."""
    opening = "from pathlib import Path\nfrom service.registry.workers import *"
    program = f"{opening}\nme = Workers(Path({str(folder)!r}))\n{code}"
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
