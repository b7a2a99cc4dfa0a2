"""Two servers behind HAProxy are restarted one after the other under load, and no request fails: because they drain."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tests.deploy.conftest import ROOT, program
from tests.live.conftest import clean_environment

pytestmark = [pytest.mark.deploy, pytest.mark.anyio]

DRAIN = 6.0
"""Seconds: longer than HAProxy takes to notice, and than a connection is kept that nobody uses."""
CLIENTS = 8
MASS = {"masses": [{"age": 67, "shape": "irregular", "margin": "spiculated"}]}
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


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)


async def ask(client: httpx.AsyncClient, ends: Counter[str], stop: asyncio.Event) -> None:
    """One request after the other, and how each ended."""
    while not stop.is_set():
        try:
            ends[str((await client.post("/v1/mammogram", json=MASS)).status_code)] += 1
        except httpx.TransportError as error:
            ends[type(error).__name__] += 1


async def roll(replicas: list[Replica], balancer: Balancer) -> Counter[str]:
    """How all requests ended that were sent while one replica after the other was restarted."""
    ends: Counter[str] = Counter()
    stop = asyncio.Event()
    async with httpx.AsyncClient(base_url=balancer.url, timeout=30) as client, asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(ask(client, ends, stop))
        await asyncio.sleep(1)
        for replica in replicas:
            await asyncio.to_thread(replica.stop)
            replica.start()
            await until(replica.is_ready)
            await asyncio.sleep(2)  # the balancer has noticed that it was gone
            await until(lambda name=replica.name: balancer.is_up(name))
        stop.set()
    return ends


@pytest.mark.parametrize("drain", [DRAIN, 0.0])
async def test_no_request_fails_if_the_servers_drain_and_some_do_if_not(drain: float, tmp_path: Path) -> None:
    haproxy = program("haproxy", install="apt-get install haproxy")
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(3)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        front, *ports = (each.getsockname()[1] for each in sockets)
    replicas = [Replica(port, drain, tmp_path / f"{port}.log") for port in ports]
    balancer = Balancer(haproxy, tmp_path, front, {each.name: port for each, port in zip(replicas, ports, strict=True)})
    try:
        for replica in replicas:
            await until(lambda name=replica.name: balancer.is_up(name))
        ends = await roll(replicas, balancer)
    finally:
        balancer.stop()
        for replica in replicas:
            replica.stop()
    assert ends["200"] > 1000
    assert (ends.total() == ends["200"]) == (drain == DRAIN), ends
