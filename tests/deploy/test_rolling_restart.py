"""Two servers behind HAProxy are restarted one after the other under load, and no request fails: because they drain."""

import csv
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from load_tests import questions
from load_tests.processes import free_ports
from tests.deploy.conftest import program
from tests.live.conftest import clean_environment
from tests.paths import ROOT

pytestmark = pytest.mark.deploy

DRAIN = 6.0
"""Seconds: longer than HAProxy takes to notice, and than a connection is kept that nobody uses."""
USERS = "16"
CONFIGURATION = """
global
  stats socket {control}
defaults
  mode http
  timeout connect 2s
  timeout client 30s
  timeout server 30s
  timeout check 3s
listen deepserve
  bind 127.0.0.1:{front}
  option httpchk GET /readyz
  default-server inter 500ms fall 3 rise 2
{servers}
"""


class Replica:
    """A server on a port of its own."""

    def __init__(self, port: int, drain: float, log: Path) -> None:
        self.name = f"replica-{port}"
        self._environment = {
            **clean_environment(),
            "DEEPSERVE_PORT": str(port),
            "DEEPSERVE_DRAIN_SECONDS": str(drain),
            "DEEPSERVE_THREADS": "1",
        }
        self._ready = f"http://127.0.0.1:{port}/readyz"
        self._log = log
        self.start()

    def start(self) -> None:
        with self._log.open("a") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service"], cwd=ROOT, env=self._environment, stdout=output, stderr=output
            )

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    def is_ready(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(self._ready).is_success
        return False


class Balancer:
    """HAProxy, which asks `/readyz` of each replica twice a second."""

    def __init__(self, program: str, folder: Path, front: int, servers: dict[str, int]) -> None:
        self.url = f"http://127.0.0.1:{front}"
        self._control = folder / "control"
        lines = "\n".join(f"  server {name} 127.0.0.1:{port} check" for name, port in servers.items())
        (folder / "haproxy.cfg").write_text(CONFIGURATION.format(control=self._control, front=front, servers=lines))
        self._process = subprocess.Popen([program, "-q", "-f", folder / "haproxy.cfg"])

    def is_up(self, name: str) -> bool:
        """Whether it sends requests to the server."""
        with socket.socket(socket.AF_UNIX) as control, suppress(OSError):
            control.connect(str(self._control))
            control.sendall(b"show stat\n")
            rows = b"".join(iter(lambda: control.recv(65536), b"")).decode().splitlines()
            return any(row.startswith(f"deepserve,{name},") and ",UP," in row for row in rows)
        return False

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


class Load:
    """Locust's users of every task, each of whose answers is checked."""

    def __init__(self, url: str, folder: Path) -> None:
        if not questions.FILE.exists():
            subprocess.run([sys.executable, "-m", "load_tests.prepare"], cwd=ROOT, check=True)
        self._figures = folder / "load"
        options = ("--users", USERS, "--shape", "soak", "--run-time", "200s", "--loglevel", "WARNING")
        files = ("--csv", str(self._figures), "--html", str(folder / "load.html"))
        command = [sys.executable, "-m", "locust", "--config", "load_tests/users/locust.conf", "--host", url]
        self._process = subprocess.Popen([*command, *options, *files], cwd=ROOT)

    def stop(self) -> tuple[int, int]:
        """Requests, and how many of them failed."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        with self._figures.with_name("load_stats.csv").open() as file:
            [total] = [row for row in csv.DictReader(file) if row["Name"] == "Aggregated"]
        return int(total["Request Count"]), int(total["Failure Count"])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.parametrize("drain", [DRAIN, 0.0])
def test_no_request_fails_if_the_servers_drain_and_some_do_if_not(drain: float, tmp_path: Path) -> None:
    haproxy = program("haproxy", install="apt-get install haproxy")
    front, *ports = free_ports(3)
    replicas = [Replica(port, drain, tmp_path / f"{port}.log") for port in ports]
    balancer = Balancer(haproxy, tmp_path, front, {each.name: port for each, port in zip(replicas, ports, strict=True)})
    try:
        wait_until(lambda: all(balancer.is_up(replica.name) for replica in replicas))
        load = Load(balancer.url, tmp_path)
        time.sleep(10)  # until all users are there
        for replica in replicas:
            replica.stop()
            replica.start()
            wait_until(replica.is_ready)
            time.sleep(2)  # the balancer has noticed that it was gone
            wait_until(lambda name=replica.name: balancer.is_up(name))  # type: ignore[misc]
        requests, failures = load.stop()
    finally:
        balancer.stop()
        for replica in replicas:
            replica.stop()
    assert requests > 500
    assert (failures == 0) == (drain == DRAIN), f"{failures} of {requests}"
