"""The knee as a person reads it, what speaks against it, and the file that `make capacity` goes on from."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from load_tests.knee.round import Round
from load_tests.machine import QUIET, described

APART_MS = 10.0
"""Most that a client may see an answer later than the server's histogram has it. The server's clock starts when its
event loop turns to a request: until then, while other requests are read or run, it lies in the socket."""
MIN_HEADROOM = 1.5
"""The generator can send so many times the knee, or the knee may be its own."""


@dataclass(frozen=True)
class Knee:
    """The highest rate that held, and what it was measured with."""

    task: str
    slo_ms: float
    per_second: float
    at_knee: list[Round]
    """In which it was asked again, after the search."""
    tried: list[tuple[float, float]]
    """Rates and the medians of their p99 in milliseconds."""
    generator_per_second: float | None
    """What the generator sends to a server with nothing to do; None if it was not measured."""
    most_per_second: float
    """Answered over connections that each ask again at once."""
    lone_ms: list[float]
    """How long a lone client waits, for each question."""
    seconds_to_ready: float | None

    @property
    def middle(self) -> Round:
        """Of the rounds at the knee the one with the median p99."""
        return sorted(self.at_knee, key=lambda one: one.p99)[len(self.at_knee) // 2]

    @property
    def cpu_us(self) -> float | None:
        """CPU time of the server, microseconds a request; None if it was not started here."""
        spent = [one.cpu_us for one in self.at_knee if one.cpu_us is not None]
        return median(spent) if spent else None

    @property
    def apart(self) -> float:
        """How much later the client saw answers than the server's histogram has them, milliseconds."""
        return median(one.apart for one in self.at_knee)

    def faults(self) -> list[str]:
        """Why the figure is not to be trusted, a line each."""
        found = []
        failed = [one.fault for one in self.at_knee if one.fault]
        if failed:
            found.append(f"answers failed at the knee: {failed[0]}")
        if self.apart > APART_MS:
            found.append(f"client and server are {self.apart:.1f} ms apart, {APART_MS:g} are allowed")
        if any(one.server_requests != one.requests for one in self.at_knee):
            found.append("the server's histogram has not counted every request")
        others = [one.others for one in self.at_knee if one.others is not None]
        if others and median(others) > QUIET:
            found.append(f"other programs had {median(others):.0%} of the server's core")
        if self.generator_per_second is not None and self.generator_per_second < MIN_HEADROOM * self.per_second:
            found.append(f"the generator sends no more than {self.generator_per_second:,.0f}/s itself")
        return found


def show(knee: Knee) -> str:
    """For a person to read: what the client saw beside what the server did."""
    middle = knee.middle
    low, high = middle.server_p99
    lines = [
        f"{knee.task}: {knee.per_second:,.0f} requests a second with a p99 of at most {knee.slo_ms:g} ms",
        "",
        "| at the knee, the middle round | client, since due | client, since sent | server's histogram |",
        "| --- | ---: | ---: | ---: |",
        f"| requests | {middle.requests:,} | | {middle.server_requests:,} |",
        f"| mean ms | | {middle.mean:.1f} | {middle.server_mean:.1f} |",
        f"| p50 ms | {middle.p50:.1f} | | |",
        f"| p99 ms | {middle.p99:.1f} | | {low:g} to {high:g} |",
        "",
        f"client and server at most {knee.apart:.1f} ms apart ({APART_MS:g} allowed); "
        f"generator late by {median(one.late for one in knee.at_knee):.2f} ms (p99)",
    ]
    if knee.cpu_us is not None:
        lines.append(f"{knee.cpu_us:,.0f} us of CPU time a request")
    if knee.generator_per_second is not None:
        lines.append(f"the generator alone sends {knee.generator_per_second:,.0f} requests a second")
    return "\n".join([*lines, *(f"NOT TO BE TRUSTED: {fault}" for fault in knee.faults())])


def write(knee: Knee, folder: Path) -> None:
    """Into `knee-TASK.json`."""
    record = {"machine": described(), "knee": asdict(knee)}
    file(folder, knee.task).write_text(json.dumps(record, indent=1) + "\n")


def read(folder: Path, task: str) -> Knee:
    """From there.

    Raises:
        SystemExit: it is not there.
    """
    path = file(folder, task)
    if not path.exists():
        raise SystemExit(f"{path} is not there: make knee OPTIONS='--tasks {task}' makes it")
    fields: dict[str, Any] = json.loads(path.read_text())["knee"]
    rounds = [Round(**{**one, "server_p99": tuple(one["server_p99"])}) for one in fields["at_knee"]]
    return Knee(**{**fields, "at_knee": rounds, "tried": [tuple(each) for each in fields["tried"]]})


def file(folder: Path, task: str) -> Path:
    """Where the figures of a task lie."""
    return folder / f"knee-{task}.json"
