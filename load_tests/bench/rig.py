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

from load_tests.bench.alone import Alone
from load_tests.bench.load import Load, post
from load_tests.bench.overload import Overload
from load_tests.bench.results import BATCHED
from load_tests.bench.scenarios import Scenario
from load_tests.machine import Cores, two_sides
from load_tests.processes import Process, pinned
from load_tests.subjects import Subject


@dataclass(frozen=True)
class Rig:
    """What all measurements of a run share."""

    server_cores: Cores
    client_cores: Cores
    seconds: int
    """Of one measurement."""
    directory: Path
    """For requests, inputs and the servers' logs."""

    @classmethod
    def on_this_machine(cls, seconds: int, directory: Path) -> "Rig":
        """One core for the server, another for the client."""
        return cls(*two_sides(), seconds, directory)

    def with_two_server_cores(self) -> "Rig":
        """The same, with a second core for the server: the client's own if there is no third."""
        first, second, *_ = sorted(os.sched_getaffinity(0))
        return replace(self, server_cores=(first, second))

    @contextmanager
    def trying(self, subject: Subject, scenario: Scenario) -> Iterator["Trial"]:
        """The server: started, its answers checked, warm, and at rest.

        Raises:
            ServerError: it does not start.
            WrongAnswer: it does not answer as ONNX Runtime does.
        """
        bodies = self.directory / f"{scenario.name}.jsonl"
        bodies.write_bytes(b"\n".join(scenario.bodies))
        with subject.serving(scenario.graph, self.server_cores, self.directory) as server:
            if subject.checked:
                scenario.check(server.url + subject.route)
            trial = Trial(subject, server, bodies, self.client_cores, max(self.seconds, scenario.least_seconds))
            with trial.turn():  # warm
                trial.load(BATCHED)
            yield trial

    def alone(self, scenario: Scenario, rows: int) -> Alone:
        """What a row costs ONNX Runtime alone, on the server's core, in runs of `rows`."""
        inputs = self.directory / f"{scenario.name}.npy"
        if not inputs.exists():
            np.save(inputs, np.concatenate(scenario.inputs))
        printed = _program("alone", self.server_cores, scenario.graph, inputs, rows, self.seconds / 2)
        return Alone(**json.loads(printed))


@dataclass(frozen=True)
class Trial:
    """A running server and what is asked of it."""

    subject: Subject
    server: Process
    bodies: Path
    client_cores: Cores
    seconds: int

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The server is awake within the block, and afterwards at rest."""
        if self.subject.restless:
            self.server.resume()
        yield
        if self.subject.restless:
            self.server.suspend()

    def load(self, connections: int) -> Load:
        """Asks over that many connections; for half the time if they are few."""
        return post(
            self.server,
            self.subject.route,
            self.bodies,
            connections=connections,
            seconds=self.seconds if connections >= BATCHED else max(1, self.seconds // 2),
            cores=self.client_cores,
            rows=self.subject.rows,
        )

    def overload(self, rate: float, connections: int) -> Overload:
        """Asks `rate` times a second over at most that many connections, whether or not there are answers."""
        url = self.server.url + self.subject.route
        printed = _program("overload", self.client_cores, url, self.bodies, rate, connections, self.seconds)
        return Overload(**json.loads(printed))


def _program(module: str, cores: Cores, *arguments: object) -> str:
    """What `load_tests.bench.<module>` prints, run on these cores."""
    command = [sys.executable, "-m", f"load_tests.bench.{module}", *map(str, arguments)]
    return subprocess.run(pinned(command, cores), capture_output=True, text=True, check=True).stdout
