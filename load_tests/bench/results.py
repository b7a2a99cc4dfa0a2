"""What a run has measured, and the medians over its rounds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean, median

from load_tests.bench.alone import Alone
from load_tests.bench.load import Load
from load_tests.bench.overload import Overload
from load_tests.processes import Memory
from load_tests.subjects import BARE

BATCHED = 64
"""Connections at which throughput and CPU time are compared: they keep any server busy."""
OWN_BATCHES = "deepserve's"
"""The key in `Standings.alone` of runs with as many rows as deepserve's had at `BATCHED` connections."""


@dataclass
class Record:
    """What one server did."""

    seconds_to_ready: float
    memory: Memory
    """After its last load."""
    loads: list[Load]
    """Of all rounds."""


@dataclass
class Standings:
    """How the servers of one scenario did, by their titles."""

    graph: str = ""
    """The file that all of them served."""
    records: dict[str, Record] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Why a server could not be measured."""
    alone: dict[str, list[Alone]] = field(default_factory=dict)
    """ONNX Runtime alone, by the rows of a run."""

    def median(self, title: str, connections: int, figure: Callable[[Load], float | None]) -> float | None:
        """Over the rounds, of a figure of that server's loads; None if it has none."""
        record = self.records.get(title)
        loads = [load for load in record.loads if load.connections == connections] if record else []
        values = [value for load in loads if (value := figure(load)) is not None]
        return median(values) if values else None

    @property
    def servers(self) -> list[str]:
        """The titles of those that were measured, the bare one left out."""
        return [title for title in self.records if title != BARE.title]

    def ceiling(self) -> float | None:
        """Requests a second of ONNX Runtime in deepserve's batches and the bare server, one after the other."""
        bare_us = self.median(BARE.title, BATCHED, lambda load: 1e6 / load.per_second)
        alone = self.alone.get(OWN_BATCHES)
        return 1e6 / (median(one.us for one in alone) + bare_us) if alone and bare_us else None


@dataclass(frozen=True)
class Strain:
    """Deepserve where it is not comfortable; lists have an entry a round."""

    narrow: list[Load]
    """One worker, `BATCHED` connections."""
    wide: list[Load]
    """One worker, many connections, each waiting for its answer."""
    overloads: list[Overload]
    """One worker, more requests than it can answer."""
    two_workers: list[float]
    """Requests a second of two workers on two cores over `BATCHED` connections, had the client taken nothing."""
    before: Load
    """A lone client before a burst..."""
    after: Load
    """...and some seconds after it."""


@dataclass
class Results:
    """All of it."""

    digits: Standings = field(default_factory=Standings)
    sentiment: Standings = field(default_factory=Standings)
    strain: Strain | None = None

    def others(self) -> float:
        """The mean share of the server's core that went to programs which are no part of this."""
        records = [*self.digits.records.values(), *self.sentiment.records.values()]
        loads = [load for record in records for load in record.loads]
        if self.strain is not None:
            loads += self.strain.narrow
        return fmean([load.others for load in loads] or [0.0])
