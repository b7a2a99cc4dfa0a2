"""Supervision, with real processes and workers that do next to nothing: what each signal does, and what follows when a
worker or the supervisor dies.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.places import ROOT

SECONDS = 20.0

SUPERVISOR = """
import logging, socket, sys
from service.errors import StartupError
from service.processes.supervisor import Supervisor

logging.basicConfig(format="%(message)s", stream=sys.stdout)
workers, stop_seconds, worker = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    try:
        Supervisor([sys.executable, "-c", *worker], listener, workers, stop_seconds).run()
    except StartupError as error:
        sys.exit(f"failed: {error}")
"""

WORKER = """
import signal, sys, time
from pathlib import Path
from service.processes.worker import end_with_supervisor, tell_started

end_with_supervisor()
"""

SERVES = WORKER + "tell_started(); time.sleep(100)"
"""Ends at SIGTERM."""
NEVER_ENDS = WORKER + "signal.signal(signal.SIGTERM, signal.SIG_IGN); tell_started(); time.sleep(100)"
FAILS = WORKER + "sys.exit(3)"
FAILS_IF_TOLD = WORKER + "Path(sys.argv[1]).exists() and sys.exit(3); tell_started(); time.sleep(100)"
DRAINS = (
    WORKER
    + """
Path(sys.argv[1]).write_text("")
received = []
signal.signal(signal.SIGTERM, lambda *_: received.append(1))
tell_started()
while len(received) < 2: time.sleep(0.01)
"""
)
"""Ends at the second SIGTERM."""


@dataclass(frozen=True)
class Supervised:
    """A supervisor and its workers."""

    process: subprocess.Popen[str]
    port: int

    @property
    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Exit status and output, once it has ended."""
        output, _ = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, output


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.01)


@contextmanager
def supervised(worker: str, *arguments: str, workers: int = 1, stop_seconds: float = 60.0) -> Iterator[Supervised]:
    """A supervisor of workers that run the program `worker`; all of them are killed at the end."""
    command = [sys.executable, "-c", SUPERVISOR, str(workers), str(stop_seconds), worker, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    left = []
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield Supervised(process, port)
    finally:
        if process.poll() is None:
            left = psutil.Process(process.pid).children()
            process.kill()
        process.communicate(timeout=SECONDS)
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def serving(server: Supervised, workers: int = 1) -> set[int]:
    """Wait until the supervisor knows that so many workers serve. Return their process ids."""
    files = Path(f"/proc/{server.process.pid}/fd")

    def pipes() -> int:
        """Those that the supervisor has open: one for each worker that has not told yet that it serves."""
        names = [os.readlink(file) for file in files.iterdir() if int(file.name) > 2]
        return sum(name.startswith("pipe:") for name in names)

    def all_serve() -> bool:
        with suppress(OSError):  # a file was closed meanwhile
            return len(server.workers) == workers and pipes() == 0
        return False

    until(all_serve)
    return {worker.pid for worker in server.workers}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_workers(number: signal.Signals) -> None:
    with supervised(SERVES, workers=3) as server:
        serving(server, 3)
        server.send(number)
        assert server.end() == (0, "")


@pytest.mark.parametrize("pause", [0, 0.03, 0.1, 0.3])
@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGHUP, signal.SIGTERM],
        [signal.SIGTERM, signal.SIGHUP],
        [signal.SIGHUP, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    ],
)
def test_it_ends_whenever_it_is_told_to(signals: list[signal.Signals], pause: float) -> None:
    with supervised(SERVES, workers=2) as server:
        until(lambda: len(server.workers) > 0)
        time.sleep(pause)
        for number in signals:
            server.send(number)
        assert server.end() == (0, "")


def test_the_second_signal_is_passed_on(tmp_path: Path) -> None:
    with supervised(DRAINS, str(tmp_path / "started")) as server:
        serving(server)
        server.send(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.5)
        server.send(signal.SIGTERM)
        assert server.end() == (0, "")


def test_the_third_signal_kills() -> None:
    with supervised(NEVER_ENDS) as server:
        [worker] = serving(server)
        for _ in range(3):
            server.send(signal.SIGTERM)
            time.sleep(0.05)  # signals that wait are one
        assert server.end() == (0, f"worker {worker} has not stopped in time: killing it\n")


def test_a_worker_that_does_not_stop_in_time_is_killed() -> None:
    with supervised(NEVER_ENDS, stop_seconds=0.3) as server:
        [worker] = serving(server)
        server.send(signal.SIGTERM)
        assert server.end() == (0, f"worker {worker} has not stopped in time: killing it\n")


def test_a_worker_that_dies_is_replaced() -> None:
    with supervised(SERVES, workers=2) as server:
        first, second = serving(server, 2)
        os.kill(first, signal.SIGKILL)
        until(lambda: first not in {worker.pid for worker in server.workers} and len(server.workers) == 2)
        assert second in serving(server, 2)
        server.send(signal.SIGTERM)
        assert server.end() == (0, f"worker {first} was killed by SIGKILL\n")


@pytest.mark.parametrize("pause", [0, 0.02, 0.1])
def test_it_ends_while_it_replaces_a_worker(pause: float) -> None:
    with supervised(SERVES, workers=2) as server:
        first, _ = serving(server, 2)
        os.kill(first, signal.SIGKILL)
        time.sleep(pause)
        server.send(signal.SIGTERM)
        assert server.end()[0] == 0


def test_a_worker_that_cannot_start_ends_the_server_if_no_other_serves() -> None:
    with supervised(FAILS) as server:
        status, output = server.end()
    assert status == 1
    assert output.startswith("failed: worker ")
    assert output.endswith(" exited with status 3 before it could serve\n")


def test_a_worker_that_cannot_be_replaced_is_tried_again_while_others_serve(tmp_path: Path) -> None:
    with supervised(FAILS_IF_TOLD, str(tmp_path / "fail"), workers=2) as server:
        first, second = serving(server, 2)
        (tmp_path / "fail").touch()
        os.kill(first, signal.SIGKILL)
        until(lambda: {worker.pid for worker in server.workers} == {second})
        time.sleep(0.3)
        assert server.process.poll() is None
        (tmp_path / "fail").unlink()
        assert second in serving(server, 2)
        server.send(signal.SIGTERM)
        status, output = server.end()
    assert status == 0
    assert output.count("exited with status 3 before it could serve") == 1


def test_a_reload_replaces_every_worker() -> None:
    with supervised(SERVES, workers=2) as server:
        old = serving(server, 2)
        server.send(signal.SIGHUP)
        until(lambda: not old & {worker.pid for worker in server.workers})
        assert len(serving(server, 2)) == 2
        server.send(signal.SIGTERM)
        assert server.end() == (0, "")


def test_a_reload_keeps_the_old_workers_if_new_ones_cannot_start(tmp_path: Path) -> None:
    with supervised(FAILS_IF_TOLD, str(tmp_path / "fail"), workers=2) as server:
        old = serving(server, 2)
        (tmp_path / "fail").touch()
        server.send(signal.SIGHUP)
        until(lambda: len(server.workers) == 3)
        assert serving(server, 2) == old
        server.send(signal.SIGTERM)
        status, output = server.end()
    assert status == 0
    assert output.startswith("the workers are not replaced: worker ")


@pytest.mark.parametrize("pause", [0, 0.05, 0.3])
def test_workers_end_with_a_supervisor_that_is_killed(pause: float) -> None:
    with supervised(NEVER_ENDS, workers=3) as server:
        until(lambda: len(server.workers) == 3)
        time.sleep(pause)
        workers = server.workers
        server.send(signal.SIGKILL)
        assert psutil.wait_procs(workers, timeout=SECONDS)[1] == []
        with socket.create_server(("127.0.0.1", server.port)):  # is free
            pass
