"""The supervisor with real processes and minimal workers: the effect of each signal, and of the death of a process."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.paths import ROOT
from tests.waiting import wait_until

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
from service.processes.worker import end_with_supervisor, notify_started

end_with_supervisor()
"""

SERVES = WORKER + "notify_started(); time.sleep(100)"
"""Ends on SIGTERM."""
NEVER_ENDS = WORKER + "signal.signal(signal.SIGTERM, signal.SIG_IGN); notify_started(); time.sleep(100)"
FAILS = WORKER + "sys.exit(3)"
FAILS_IF_FILE_EXISTS = (
    WORKER
    + """
if Path(sys.argv[1]).exists():
    Path(sys.argv[1] + ".seen").touch()
    sys.exit(3)
notify_started()
time.sleep(100)
"""
)
COUNTS_SIGNALS = (
    WORKER
    + """
received = []
def count(*_):
    received.append("x")
    Path(sys.argv[1]).write_text("".join(received))
signal.signal(signal.SIGTERM, count)
notify_started()
while len(received) < int(sys.argv[2]): time.sleep(0.01)
"""
)
"""Writes an x to a file for each SIGTERM, and ends after a number of them."""


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
        """Wait for its end; return exit status and output."""
        output, _ = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, output


@contextmanager
def supervised(worker: str, *arguments: str, workers: int = 1, stop_seconds: float = 60.0) -> Iterator[Supervised]:
    """Run a supervisor of workers that execute the program `worker`; kill all of them at the end."""
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
    """Wait until the supervisor knows that this number of workers serves; return their process ids."""
    files = Path(f"/proc/{server.process.pid}/fd")

    def pipes() -> int:
        """Return the number of the supervisor's open pipes: one per worker that does not serve yet."""
        names = [os.readlink(file) for file in files.iterdir() if int(file.name) > 2]
        return sum(name.startswith("pipe:") for name in names)

    def all_serve() -> bool:
        with suppress(OSError):  # the file was closed in between
            return len(server.workers) == workers and pipes() == 0
        return False

    wait_until(all_serve)
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
def test_a_supervisor_stops_during_its_start_and_during_a_reload(signals: list[signal.Signals], pause: float) -> None:
    with supervised(SERVES, workers=2) as server:
        wait_until(lambda: len(server.workers) > 0)
        time.sleep(pause)
        for number in signals:
            server.send(number)
        assert server.end() == (0, "")


def send_and_wait(server: Supervised, received: Path, count: int) -> None:
    """Send SIGTERM until the worker has received it `count` times: pending signals of a process are merged into one."""
    for number in range(1, count + 1):
        server.send(signal.SIGTERM)
        wait_until(lambda expected="x" * number: received.exists() and received.read_text() == expected)


def test_the_second_signal_reaches_the_workers(tmp_path: Path) -> None:
    with supervised(COUNTS_SIGNALS, str(tmp_path / "received"), "2") as server:
        serving(server)
        send_and_wait(server, tmp_path / "received", 1)
        assert server.process.poll() is None
        server.send(signal.SIGTERM)
        assert server.end() == (0, "")


def test_the_third_signal_kills_the_workers(tmp_path: Path) -> None:
    with supervised(COUNTS_SIGNALS, str(tmp_path / "received"), "99") as server:
        [worker] = serving(server)
        send_and_wait(server, tmp_path / "received", 2)
        server.send(signal.SIGTERM)
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
        wait_until(lambda: first not in {worker.pid for worker in server.workers} and len(server.workers) == 2)
        assert second in serving(server, 2)
        server.send(signal.SIGTERM)
        assert server.end() == (0, f"worker {first} was killed by SIGKILL\n")


@pytest.mark.parametrize("pause", [0, 0.02, 0.1])
def test_a_supervisor_stops_while_it_replaces_a_worker(pause: float) -> None:
    with supervised(SERVES, workers=2) as server:
        first, _ = serving(server, 2)
        os.kill(first, signal.SIGKILL)
        time.sleep(pause)
        server.send(signal.SIGTERM)
        assert server.end()[0] == 0


def test_the_server_ends_if_a_worker_cannot_start_and_no_other_serves() -> None:
    with supervised(FAILS) as server:
        status, output = server.end()
    assert status == 1
    assert output.startswith("failed: worker ")
    assert output.endswith(" exited with status 3 before it could serve\n")


def test_a_failed_start_is_repeated_while_other_workers_serve(tmp_path: Path) -> None:
    with supervised(FAILS_IF_FILE_EXISTS, str(tmp_path / "fail"), workers=2) as server:
        first, second = serving(server, 2)
        (tmp_path / "fail").touch()
        os.kill(first, signal.SIGKILL)
        wait_until((tmp_path / "fail.seen").exists)
        wait_until(lambda: {worker.pid for worker in server.workers} == {second})
        assert server.process.poll() is None
        (tmp_path / "fail").unlink()
        assert second in serving(server, 2)
        server.send(signal.SIGTERM)
        status, output = server.end()
    assert status == 0
    assert output.count("exited with status 3 before it could serve") >= 1


def test_a_reload_replaces_every_worker() -> None:
    with supervised(SERVES, workers=2) as server:
        old = serving(server, 2)
        server.send(signal.SIGHUP)
        wait_until(lambda: not old & {worker.pid for worker in server.workers})
        assert len(serving(server, 2)) == 2
        server.send(signal.SIGTERM)
        assert server.end() == (0, "")


def test_a_reload_keeps_the_old_workers_if_new_ones_cannot_start(tmp_path: Path) -> None:
    with supervised(FAILS_IF_FILE_EXISTS, str(tmp_path / "fail"), workers=2) as server:
        old = serving(server, 2)
        (tmp_path / "fail").touch()
        server.send(signal.SIGHUP)
        wait_until(lambda: len(server.workers) == 3)
        assert serving(server, 2) == old
        server.send(signal.SIGTERM)
        status, output = server.end()
    assert status == 0
    assert output.startswith("reload failed, the old workers keep serving: worker ")


@pytest.mark.parametrize("pause", [0, 0.05, 0.3])
def test_workers_end_when_their_supervisor_is_killed(pause: float) -> None:
    with supervised(NEVER_ENDS, workers=3) as server:
        wait_until(lambda: len(server.workers) == 3)
        time.sleep(pause)
        workers = server.workers
        server.send(signal.SIGKILL)
        assert psutil.wait_procs(workers, timeout=SECONDS)[1] == []
        with socket.create_server(("127.0.0.1", server.port)):  # is free
            pass
