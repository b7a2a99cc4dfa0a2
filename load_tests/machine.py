"""The machine that measures: whose its cores are, how quiet it has to be, what it is, and where the figures go."""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from service.engine.onnx.runtime import ort

OUT = Path(__file__).parent / "results"
QUIET = 0.03
"""Share of the server's core that other programs may have."""
PACKAGES = ("bentoml", "numpy", "uvicorn", "uvloop", "httptools")

Cores = tuple[int, ...]


def two_sides() -> tuple[Cores, Cores]:
    """The cores of the server and of the client: the first, and the last.

    Raises:
        SystemExit: there is only one.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("it takes two cores: one for the server, one for the client")
    return (cores[0],), (cores[-1],)


def described() -> dict[str, Any]:
    """What it was measured on, and of which commit."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": model[0].partition(":")[2].strip() if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {"onnxruntime": ort.__version__, **{name: version(name) for name in PACKAGES}},
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str:
    """The one that is checked out; nothing where git or the repository is missing."""
    command = ["git", "describe", "--always", "--dirty"]
    with suppress(OSError):
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        ).stdout.strip()
    return ""


def say(line: str) -> None:
    """Progress, beside what is printed in the end."""
    print(line, file=sys.stderr, flush=True)
