"""The measuring stand: which core is the server's and which the client's, for how long to ask, where the files lie."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from load_tests.alone import Alone
from load_tests.load import Load, post
from load_tests.overload import Overload
from load_tests.processes import Process, pinned
from load_tests.scenarios import Scenario
from load_tests.subjects import Subject

WARM_CONNECTIONS = 64
WARM_SECONDS = 1


@dataclass(frozen=True)
class Rig:
    """What all measurements of a run share."""

    server_cores: tuple[int, ...]
    client_cores: tuple[int, ...]
    seconds: int
    """Of one measurement."""
    directory: Path
    """For requests, inputs and the servers' logs."""

    @classmethod
    def on_this_machine(cls, seconds: int, directory: Path) -> "Rig":
        """The first core for the server, the last for the client."""
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise SystemExit("the benchmark needs two cores: one for the server, one for the client")
        return cls((cores[0],), (cores[-1],), seconds, directory)

    def wide(self) -> "Rig":
        """The same with a second core for the server: the client's own, if there is no third."""
        first, second, *_ = sorted(os.sched_getaffinity(0))
        return replace(self, server_cores=(first, second))

    @contextmanager
    def serving(self, subject: Subject, scenario: Scenario) -> Iterator[Process]:
        """The server: started, its answers checked, warm.

        Raises:
            StartError: it does not start.
            WrongAnswer: it does not answer as ONNX Runtime does.
        """
        with subject.serving(scenario.graph, self.server_cores, self.directory / "log") as server:
            if subject.checked:
                scenario.check(server.url + subject.route)
            self.load(server, subject, scenario, WARM_CONNECTIONS, WARM_SECONDS)
            yield server

    def load(
        self, server: Process, subject: Subject, scenario: Scenario, connections: int, seconds: int | None = None
    ) -> Load:
        """Asks the server, over that many connections, for `seconds` or the rig's own."""
        return post(
            server,
            subject.route,
            self._bodies(scenario),
            connections=connections,
            seconds=seconds or self.seconds,
            cores=self.client_cores,
            rows=subject.rows,
        )

    def overload(
        self, server: Process, subject: Subject, scenario: Scenario, rate: float, connections: int
    ) -> Overload:
        """Asks the server `rate` times a second, whether or not it answers."""
        url = server.url + subject.route
        printed = self._program(
            "overload", self.client_cores, url, self._bodies(scenario), rate, connections, self.seconds
        )
        return Overload(**json.loads(printed))

    def alone(self, scenario: Scenario, rows: int) -> Alone:
        """What a row costs ONNX Runtime alone, on the server's core, in runs of `rows`."""
        inputs = self.directory / f"{scenario.name}.npy"
        if not inputs.exists():
            np.save(inputs, np.concatenate(scenario.inputs))
        printed = self._program("alone", self.server_cores, scenario.graph, inputs, rows, self.seconds / 2)
        return Alone(**json.loads(printed))

    def _bodies(self, scenario: Scenario) -> Path:
        path = self.directory / f"{scenario.name}.jsonl"
        if not path.exists():
            path.write_bytes(b"\n".join(scenario.bodies))
        return path

    def _program(self, module: str, cores: tuple[int, ...], *arguments: object) -> str:
        command = [sys.executable, "-m", f"load_tests.{module}", *map(str, arguments)]
        return subprocess.run(pinned(command, cores), capture_output=True, text=True, check=True).stdout
