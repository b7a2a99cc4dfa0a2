"""Who is measured: deepserve, the bare server under it, and the peers, each as its file in `peers/` says.

A peer's file opens with inline script metadata (PEP 723): its pinned dependencies, and under `[tool.bench]` its title,
the command that starts it, its route, the path that answers 200 once it is ready, and the Prometheus histogram of the
rows in a run if it has one. Its environment is made once and kept in `ENVIRONMENTS`.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from load_tests.processes import Process, ServerError, free_ports, running

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"
DEEPSERVE = "deepserve"
ENVIRONMENTS = Path(__file__).parent / ".environments"

_METADATA = re.compile(r"^# /// script\n((?:#.*\n)+)# ///$", re.MULTILINE)


@dataclass(frozen=True)
class Subject:
    """A server that can be started.

    In its command and environment `{port}`, `{second}` and `{third}` stand for free ports, `{libraries}` for the folder
    of Python's own shared library.
    """

    title: str
    command: str
    route: str
    ready: str
    rows: str | None = None
    dependencies: tuple[str, ...] | None = None
    """Of the environment that it runs in; None for this one."""
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path = ROOT
    checked: bool = True
    """Whether its answers mean anything."""
    restless: bool = False
    """Whether it keeps its core busy when nobody asks; if so it is suspended between its turns."""

    def serving(self, graph: Path, cores: Sequence[int], logs: Path) -> AbstractContextManager[Process]:
        """The running server, its tree of processes bound to `cores`, what it writes in the folder `logs`.

        Raises:
            ServerError: its environment cannot be made, or it does not start.
        """
        port, second, third = free_ports(3)
        places = {"port": port, "second": second, "third": third, "libraries": sysconfig.get_config_var("LIBDIR")}
        programs = Path(sys.executable).parent if self.dependencies is None else environment(self.dependencies)
        variables = {
            # Whoever runs the benchmark may have settings of the service of their own.
            **{name: value for name, value in os.environ.items() if not name.startswith("DEEPSERVE_")},
            "BENTOML_DO_NOT_TRACK": "True",
            "ORT_DISABLE_TELEMETRY": "1",  # the peers have it too, which do not import service/
            "GRAPH": str(graph),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            **{name: value.format(**places) for name, value in self.environment.items()},
        }
        return running(
            self.command.format(**places).split(),
            cores=cores,
            port=port,
            ready=self.ready,
            directory=self.directory,
            environment=variables,
            log=logs / f"{port}.log",
        )


BARE = Subject(
    title="the bare server, answering 200",
    command="bentoml serve load_tests.bare:Bare --port {port}",
    route="/",
    ready="/",
    checked=False,
)
"""The server under deepserve with nothing to do."""
UVICORN = replace(BARE, title="the same under uvicorn's own protocol class", environment={"BARE_PROTOCOL": "httptools"})
"""What `service/transport/` has to beat."""


def deepserve(route: str, **settings: str) -> Subject:
    """This service, with `DEEPSERVE_*` settings."""
    return Subject(
        title=DEEPSERVE,
        command="python -m service",
        route=route,
        ready="/readyz",
        rows="deepserve_run_rows",
        environment={
            "DEEPSERVE_PORT": "{port}",
            **{f"DEEPSERVE_{name.upper()}": value for name, value in settings.items()},
        },
    )


def peers(scenario: str) -> list[Subject]:
    """Those whose file is `peers/<scenario>_*.py`."""
    return [_peer(path) for path in sorted(PEERS.glob(f"{scenario}_*.py"))]


def _peer(path: Path) -> Subject:
    found = _METADATA.search(path.read_text())
    if found is None:
        raise ValueError(f"{path} has no script metadata")
    metadata = tomllib.loads("".join(f"{line.removeprefix('#').strip()}\n" for line in found[1].splitlines()))
    return Subject(**metadata["tool"]["bench"], dependencies=tuple(metadata["dependencies"]), directory=PEERS)


def environment(dependencies: Sequence[str]) -> Path:
    """The folder of programs of a virtual environment with these packages, made if it is not there.

    Raises:
        ServerError: a package cannot be installed.
    """
    place = ENVIRONMENTS / hashlib.sha256("\n".join(dependencies).encode()).hexdigest()[:12]
    programs = place / "bin"
    if (place / "complete").exists():
        return programs
    print(f"installing {' '.join(dependencies)}", file=sys.stderr, flush=True)
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    done = subprocess.run(
        [str(programs / "pip"), "install", "--quiet", *dependencies], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ServerError([line for line in done.stderr.splitlines() if line.strip()][-1])
    (place / "complete").touch()
    return programs
