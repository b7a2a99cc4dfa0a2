"""Signals stop the server at any time, and its workers never outlive it."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from threading import Event

import httpx
import psutil
import pytest

from load_tests.processes import free_ports
from tests.live.conftest import clean_environment, wait_for_server
from tests.paths import MODELS, ROOT
from tests.waiting import wait_until

BODY = {"masses": [{"age": 50}]}


@dataclass(frozen=True)
class Server:
    """A server with one model."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the end. Return the exit status, and the log if it has errors."""
        status = self.process.wait(30)
        log = self.log.read_text()
        return status, log if "Traceback" in log or "ERROR" in log else ""


@contextmanager
def started(tmp_path: Path, **settings: str) -> Iterator[Server]:
    """Start a server with one model, and kill it at the end if it still runs."""
    [port] = free_ports(1)
    if not (tmp_path / "models").exists():
        copytree(MODELS / "mammogram" / "1", tmp_path / "models" / "mammogram" / "1")
    environment = {
        **clean_environment(),
        "DEEPSERVE_PORT": str(port),
        "DEEPSERVE_MODELS_DIR": str(tmp_path / "models"),
        **{f"DEEPSERVE_{name.upper()}": value for name, value in settings.items()},
    }
    log = tmp_path / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-m", "service"], cwd=ROOT, env=environment, stdout=output, stderr=output
        ) as process,
    ):
        try:
            yield Server(process, f"http://127.0.0.1:{port}", log)
        finally:
            process.kill()


@contextmanager
def serving(tmp_path: Path, **settings: str) -> Iterator[Server]:
    """Start a server, and wait until it is ready."""
    with started(tmp_path, **settings) as server:
        wait_for_server(server.url, server.process, server.log, ready=True)
        yield server


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.8, 0.95])
def test_a_server_stops_on_a_signal_during_its_start(share: float, tmp_path: Path, seconds: float) -> None:
    with started(tmp_path) as server:
        time.sleep(share * seconds)
        server.send(signal.SIGTERM)
        server.send(signal.SIGHUP)  # systemd sends both
        assert server.end() == (0, "")


@pytest.fixture(scope="module")
def seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Return how long a start takes on this machine."""
    begun = time.monotonic()
    with serving(tmp_path_factory.mktemp("first")) as server:
        server.send(signal.SIGHUP)  # it has to stop while it reloads
        server.send(signal.SIGTERM)
        ready = time.monotonic() - begun
        assert server.end() == (0, "")
    return ready


def test_the_second_signal_ends_the_drain(tmp_path: Path) -> None:
    with serving(tmp_path, drain_seconds="600", workers="2") as server:
        server.send(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503)
        assert httpx.post(f"{server.url}/v1/mammogram", json=BODY).status_code == 200
        server.send(signal.SIGTERM)
        assert server.end() == (0, "")


def test_a_reload_fails_no_request_and_workers_end_with_a_killed_supervisor(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool, serving(tmp_path, workers="2") as server:
        old, enough = set(server.workers), Event()
        asked = pool.submit(ask, server.url, enough)
        try:
            server.send(signal.SIGHUP)
            wait_until(lambda: not old & set(server.workers) and len(server.workers) == 2)
            wait_for_server(server.url, server.process, server.log, ready=True)
        finally:
            enough.set()
        statuses = asked.result()
        assert set(statuses) == {200}, statuses
        workers = server.workers
        server.send(signal.SIGKILL)
        server.process.wait()
        _, alive = psutil.wait_procs(workers, timeout=5)
        assert alive == []
        with socket.create_server(("127.0.0.1", int(server.url.rpartition(":")[2]))):  # is free
            pass


def ask(url: str, enough: Event) -> list[int]:
    """Send requests one after the other, each on a new connection; return their statuses."""
    statuses = []
    while not enough.is_set():
        statuses.append(httpx.post(f"{url}/v1/mammogram", json=BODY, timeout=30).status_code)
    return statuses
