"""Workers share a desired state and their statuses. Nobody waits for a dead or stale worker."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.registry import workers
from service.registry.models_folder import ModelFiles
from service.registry.workers import ModelSpec, Spec, Workers, WorkerStatus
from service.version_policy import VersionPolicy
from tests.paths import ROOT


def another(folder: Path, code: str) -> subprocess.Popen[str]:
    """A process that joins as `me`, runs `code`, prints "done" and waits."""
    program = f"""
from pathlib import Path
from service.registry.workers import *
me = Workers(Path({str(folder)!r}))
me.join()
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
    return sorted(status.generation for status in workers.statuses().values())


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Workers]:
    """This process, one of the workers that share a directory."""
    workers = Workers(tmp_path)
    workers.join()
    yield workers
    workers.leave()
    assert workers.statuses() == {}


def test_a_constructor_writes_nothing(tmp_path: Path) -> None:
    Workers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_living_worker_has_a_status(here: Workers, tmp_path: Path) -> None:
    here.report(WorkerStatus(1, ready=True))
    with another(tmp_path, "me.report(WorkerStatus(2, ready=False, failures={'digits': {'1': 'no'}}))") as there:
        assert here.statuses()[f"worker-{there.pid}"].failures == {"digits": {"1": "no"}}
        there.kill()
        there.wait()
        assert here.statuses() == {here.name: WorkerStatus(1, ready=True)}
    assert len(list(tmp_path.glob("worker-*"))) == 2  # of this one


def test_a_worker_with_an_old_heartbeat_is_stale(
    here: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "STALE_SECONDS", 0.5)
    here.report(WorkerStatus(1))
    with another(tmp_path, "me.report(WorkerStatus(2, loaded=frozenset({('digits', '1', 'a')})))") as there:
        time.sleep(1.2 * workers.STALE_SECONDS)
        assert generations(here) == [1, 2], "a worker that starts has no heartbeat yet, and is not stale"
        there.communicate("\n")
    code = "import threading, time\nme.report(WorkerStatus(3, loaded=frozenset({('digits', '1', 'a')})))\nme.beat()"
    forever = "threading.Thread(target=lambda: [(me.beat(), time.sleep(0.1)) for _ in range(600)], daemon=True).start()"
    with another(tmp_path, f"{code}\n{forever}") as there:
        time.sleep(1.2 * workers.STALE_SECONDS)
        wait_until(lambda: generations(here) == [1, 3] and not here.stale())
        there.send_signal(signal.SIGSTOP)
        wait_until(lambda: generations(here) == [1])
        assert here.stale() == {f"worker-{there.pid}"}
        assert here.loaded() == {("digits", "1")}, "it still has its versions"
        there.send_signal(signal.SIGCONT)
        wait_until(lambda: generations(here) == [1, 3] and not here.stale())
        there.communicate("\n")


def test_a_worker_that_has_reported_nothing_is_not_ready(here: Workers) -> None:
    assert here.statuses() == {here.name: WorkerStatus()}
    assert not WorkerStatus().ready


def test_all_workers_read_the_same_desired_state(here: Workers, tmp_path: Path) -> None:
    assert here.spec() == Spec()
    model = "ModelSpec(ModelFiles({'1': 'a'}), VersionPolicy(None, (1,)))"
    with another(tmp_path, f"me.update(lambda spec: {{'digits': {model}}})") as there:
        there.communicate("\n")
    expected = ModelSpec(ModelFiles({"1": "a"}), VersionPolicy(None, (1,)), generation=1)
    assert (here.spec().generation, here.spec().models) == (1, {"digits": expected})
    before, after = here.update(lambda _spec: {})
    assert before == after == here.spec(), "nothing changed"
    before, after = here.update(lambda _spec: {"digits": None, "letters": ModelSpec()})
    assert (before.generation, after.generation, list(after.models)) == (1, 2, ["letters"])
    assert here.spec() == after


def test_models_that_have_been_loaded_are_recorded_without_a_new_generation(here: Workers) -> None:
    here.update(lambda _spec: {"digits": ModelSpec(), "mammogram": ModelSpec()})
    here.record_proven(["digits", "letters"])
    assert (here.spec().proven, here.spec().generation) == ({"digits"}, 1)
    here.update(lambda _spec: {"digits": None})
    assert here.spec().proven == frozenset(), "a model that is gone is forgotten"


def test_nobody_waits_forever_for_a_worker_that_makes_a_change(
    here: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "STALE_SECONDS", 0.5)
    code = "import time\nme.update(lambda spec: (print('done', flush=True), time.sleep(60)))"
    with another(tmp_path, code) as there:
        with pytest.raises(TimeoutError, match=r"spec\.lock"):
            here.update(lambda _spec: {"digits": ModelSpec()})
        there.kill()
    assert here.update(lambda _spec: {"digits": ModelSpec()})[1].generation == 1


def test_files_that_somebody_has_removed_are_written_again(here: Workers, tmp_path: Path) -> None:
    here.update(lambda _spec: {"digits": ModelSpec()})
    here.report(WorkerStatus(1, ready=True))
    here.beat()
    for path in tmp_path.iterdir():
        path.unlink()
    assert list(here.spec().models) == ["digits"]
    assert here.statuses() == {}
    here.beat()
    assert here.statuses() == {here.name: WorkerStatus(1, ready=True)}
    assert here.update(lambda _spec: {"letters": ModelSpec()})[1].generation == 2
    assert list(here.spec().models) == ["digits", "letters"]


def test_concurrent_changes_are_all_made(here: Workers, tmp_path: Path) -> None:
    code = """
import os
for number in range(50):
    me.update(lambda spec: {f"{os.getpid()}-{number}": ModelSpec()})
"""
    opening = f"from pathlib import Path\nfrom service.registry.workers import *\nme = Workers(Path({str(tmp_path)!r}))"
    others = [subprocess.Popen([sys.executable, "-c", f"{opening}\n{code}"], cwd=ROOT) for _ in range(3)]
    for each in others:
        assert each.wait(60) == 0
    spec = here.spec()
    assert spec.generation == len(spec.models) == 150
