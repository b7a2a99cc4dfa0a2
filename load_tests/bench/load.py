"""Load from wrk, and what it costs the server: requests a second, latency, CPU time, rows a run."""

import json
import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from load_tests.metrics import histogram
from load_tests.processes import Process, ServerError, pinned

SCRIPT = Path(__file__).parent / "cycle.lua"


@dataclass(frozen=True)
class Load:
    """What came of posting to a server over a number of connections, each with one request at a time."""

    connections: int
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int
    """Answers with a status of 400 or more."""
    lost: int
    """Requests without an answer."""
    cpu_us: float
    """CPU time of the server's whole tree of processes, in microseconds a request."""
    client_cpu_seconds: float
    others: float
    """Share of the server's cores that went to neither of the two: where it is large, trust `cpu_us` alone."""
    rows: float | None
    """Mean rows in a run of the model, where the server tells."""

    @property
    def per_second(self) -> float:
        """Requests answered a second."""
        return self.requests / self.seconds


def check_tools() -> None:
    """Ends the program if wrk or taskset is missing."""
    for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not installed: apt-get install {package}")


def post(
    server: Process,
    route: str,
    bodies: Path,
    *,
    connections: int,
    seconds: int,
    cores: Sequence[int],
    rows: str | None = None,
) -> Load:
    """Posts the lines of the file `bodies` to `route`, over and over, from the given cores.

    Args:
        server: who is asked.
        route: the path.
        bodies: JSON bodies, one a line.
        connections: how many requests are under way at any time.
        seconds: for how long.
        cores: where wrk runs.
        rows: the Prometheus histogram at the server's /metrics that holds the rows of each run.

    Raises:
        ServerError: it cannot be reached.
    """
    wrk = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s", "--timeout", "10s"]
    command = pinned([*wrk, "--script", str(SCRIPT), server.url + route, "--", str(bodies)], cores)
    before = _read(server, rows)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError((done.stderr or done.stdout).strip())
    spent = Meters(*(late - early for early, late in zip(before, _read(server, rows), strict=True)))
    figures = json.loads(done.stdout.splitlines()[-1])
    shares_cores = bool(set(cores) & set(server.cores))
    others = spent.cores_busy - spent.server_cpu - (spent.client_cpu if shares_cores else 0)
    return Load(
        connections=connections,
        cpu_us=spent.server_cpu * 1e6 / max(1, figures["requests"]),
        client_cpu_seconds=spent.client_cpu,
        others=max(0.0, others / figures["seconds"] / len(server.cores)),
        rows=spent.rows / spent.runs if spent.runs else None,
        **figures,
    )


class Meters(NamedTuple):
    """What only ever grows: seconds of CPU time, and the model's rows and runs."""

    server_cpu: float
    client_cpu: float
    """Of the clients that have ended."""
    cores_busy: float
    rows: float
    runs: float


def _read(server: Process, rows: str | None) -> Meters:
    client = resource.getrusage(resource.RUSAGE_CHILDREN)
    served = (0.0, 0.0)
    if rows is not None:
        told = histogram(server.url, rows)
        served = (told.sum, told.count)
    return Meters(server.cpu_seconds(), client.ru_utime + client.ru_stime, server.cores_busy_seconds(), *served)
