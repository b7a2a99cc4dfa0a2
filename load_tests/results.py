"""What a run has measured, and the medians over its rounds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from statistics import fmean, median

from load_tests.alone import Alone
from load_tests.load import Load
from load_tests.overload import Overload
from load_tests.processes import Memory
from load_tests.subjects import BARE

BATCHED = 64
"""Connections at which throughput and CPU time are compared."""
OWN_BATCHES = "deepserve's"
"""The key in `Standings.alone` of runs with as many rows as deepserve's had at `BATCHED` connections."""


@dataclass(frozen=True)
class Turn:
    """One server in one round."""

    seconds_to_ready: float
    memory: Memory
    """After the loads."""
    loads: list[Load]


@dataclass
class Standings:
    """How the servers of one scenario did, by their titles."""

    turns: dict[str, list[Turn]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Why a server could not be measured."""
    alone: dict[str, list[Alone]] = field(default_factory=dict)
    """ONNX Runtime alone, by the rows of a run."""

    def load(self, title: str, connections: int, figure: Callable[[Load], float | None]) -> float | None:
        """The median of a figure of that server's loads; None if it has none."""
        loads = [load for turn in self.turns.get(title, []) for load in turn.loads if load.connections == connections]
        values = [value for load in loads if (value := figure(load)) is not None]
        return median(values) if values else None

    def turn(self, title: str, figure: Callable[[Turn], float]) -> float | None:
        """The median of a figure of that server's turns; None if it has none."""
        return median(map(figure, turns)) if (turns := self.turns.get(title)) else None

    @property
    def servers(self) -> list[str]:
        """The titles of those that were measured, the bare one left out."""
        return [title for title in self.turns if title != BARE.title]

    def ceiling(self) -> float | None:
        """Requests a second of ONNX Runtime in deepserve's batches and the bare server, one after the other."""
        bare_us = self.load(BARE.title, BATCHED, lambda load: 1e6 / load.per_second)
        alone = self.alone.get(OWN_BATCHES)
        return 1e6 / (median(one.us for one in alone) + bare_us) if alone and bare_us else None


@dataclass(frozen=True)
class Strain:
    """Deepserve where it is not comfortable."""

    p50_before_ms: float
    """Of a lone client, before a burst..."""
    p50_after_ms: float
    """...and some seconds after it."""
    peak_per_second: float
    wide: Load
    """Many connections, each waiting for its answer."""
    overload: Overload
    workers_gain: float
    """Throughput of two workers over that of one, had the client taken nothing."""


@dataclass
class Results:
    """All of it."""

    digits: Standings = field(default_factory=Standings)
    sentiment: Standings = field(default_factory=Standings)
    strain: Strain | None = None

    def others(self) -> float:
        """The mean share of the server's core that went to programs which are no part of this."""
        turns = [turn for standings in (self.digits, self.sentiment) for turn in chain(*standings.turns.values())]
        return fmean([load.others for turn in turns for load in turn.loads] or [0.0])
