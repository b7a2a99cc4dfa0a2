"""Load from wrk, and what it costs the server: requests a second, latency, CPU time, rows a run."""

import json
import re
import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from load_tests.processes import Process, pinned

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
    """
    wrk = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command = pinned([*wrk, "--script", str(SCRIPT), server.url + route, "--", str(bodies)], cores)
    runs = _runs(server, rows)
    cpu, client_cpu = server.cpu_seconds(), _children_cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cpu, client_cpu = server.cpu_seconds() - cpu, _children_cpu_seconds() - client_cpu
    figures = json.loads(done.stdout.splitlines()[-1])
    return Load(
        connections=connections,
        cpu_us=cpu * 1e6 / max(1, figures["requests"]),
        client_cpu_seconds=client_cpu,
        rows=_mean(runs, _runs(server, rows)),
        **figures,
    )


def _children_cpu_seconds() -> float:
    """Of the children of this process that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _runs(server: Process, rows: str | None) -> tuple[float, float]:
    """Rows and runs so far, over all label values."""
    if rows is None:
        return 0.0, 0.0
    text = httpx.get(f"{server.url}/metrics", timeout=10).text
    total, count = (
        sum(map(float, re.findall(rf"^{rows}_{suffix}(?:{{.*}})? (\S+)", text, re.MULTILINE)))
        for suffix in ("sum", "count")
    )
    return total, count


def _mean(before: tuple[float, float], after: tuple[float, float]) -> float | None:
    runs = after[1] - before[1]
    return (after[0] - before[0]) / runs if runs else None
