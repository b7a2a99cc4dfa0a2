"""What deepserve is held to, and whether this run reached it."""

from dataclasses import dataclass
from statistics import median

from load_tests.bench.results import BATCHED, Results, Strain
from load_tests.bench.strain import AFTER_BURST_SECONDS, ROOM, WIDE
from load_tests.subjects import DEEPSERVE

MOSEC = "mosec"
FASTAPI = "FastAPI, unbatched"
BENTOML = "BentoML, as its docs do it"
PADDING = "batches padded to the longest"


@dataclass(frozen=True)
class Goal:
    """A figure and its bound."""

    text: str
    bound: str
    measured: float | None
    """None if a server it takes was not measured, or what it is about did not happen."""
    reached: bool

    def __str__(self) -> str:
        if self.measured is None:
            return f"not measured  {self.text} ({self.bound})"
        return f"{'reached' if self.reached else 'NOT REACHED':12}  {self.text}: {self.measured:.3g} ({self.bound})"


def at_most(bound: float, text: str, measured: float | None) -> Goal:
    """A figure that should be small."""
    return Goal(text, f"at most {bound:g}", measured, measured is not None and measured <= bound)


def at_least(bound: float, text: str, measured: float | None) -> Goal:
    """A figure that should be large."""
    return Goal(text, f"at least {bound:g}", measured, measured is not None and measured >= bound)


def goals(results: Results) -> list[Goal]:
    """All that this run can tell about."""
    return [
        *(_of_digits(results) if results.digits.records else []),
        *(_of_sentiment(results) if results.sentiment.records else []),
        *(_of_strain(results.strain) if results.strain else []),
    ]


def _of_digits(results: Results) -> list[Goal]:
    digits = results.digits

    def cpu(title: str) -> float | None:
        return digits.median(title, BATCHED, lambda load: load.cpu_us)

    def alone(title: str) -> float | None:
        return digits.median(title, 1, lambda load: load.p50_ms)

    own = cpu(DEEPSERVE)
    pace = digits.median(DEEPSERVE, BATCHED, lambda load: load.per_second)
    spread = digits.median(DEEPSERVE, 8, lambda load: load.p99_ms / load.p50_ms)
    record = digits.records.get(DEEPSERVE)
    memory = record.memory.rss_largest if record else None
    return [
        at_most(1, "CPU a request / mosec's", _ratio(own, cpu(MOSEC))),
        at_most(0.5, "CPU a request / unbatched FastAPI's", _ratio(own, cpu(FASTAPI))),
        at_most(0.2, "CPU a request / BentoML's as its docs do it", _ratio(own, cpu(BENTOML))),
        at_least(0.85, "requests a second / the ceiling", _ratio(pace, digits.ceiling())),
        at_most(1, "p50 alone / unbatched FastAPI's", _ratio(alone(DEEPSERVE), alone(FASTAPI))),
        at_most(3, "8 connections: p99 / p50", spread),
        at_most(350, "resident memory of the worker, all models loaded, MB", memory),
        at_most(5, "start to ready, seconds", record.seconds_to_ready if record else None),
    ]


def _of_sentiment(results: Results) -> list[Goal]:
    def pace(title: str) -> float | None:
        return results.sentiment.median(title, BATCHED, lambda load: load.per_second)

    own = pace(DEEPSERVE)
    return [
        at_least(2, "reviews a second / those of batches padded to the longest", _ratio(own, pace(PADDING))),
        at_least(1.8, "reviews a second / unbatched FastAPI's", _ratio(own, pace(FASTAPI))),
    ]


def _of_strain(strain: Strain) -> list[Goal]:
    peak = median(load.per_second for load in strain.narrow)
    wide = median(load.per_second for load in strain.wide)
    answered = median(rush.answered_per_second for rush in strain.overloads)
    refused = [rush.refused_p99_ms for rush in strain.overloads if rush.refused_p99_ms is not None]
    failed = sum(rush.failed for rush in strain.overloads)
    alive = min(rush.probes_answered / rush.probes for rush in strain.overloads)
    rested = strain.after.p50_ms / strain.before.p50_ms
    name = f"twice the capacity over {WIDE} connections, {ROOM} rows may wait:"
    return [
        at_most(1.1, f"p50 alone {AFTER_BURST_SECONDS} s after a burst / before it", rested),
        at_least(0.9, f"{WIDE} connections: requests a second / those of {BATCHED}", wide / peak),
        at_least(0.9, f"{name} answers a second / the peak", answered / peak),
        at_most(50, f"{name} p99 of a 503, ms", median(refused) if refused else None),
        at_most(0, f"{name} neither 200 nor 503", failed),
        at_least(1, f"{name} share of /livez answered", alive),
        at_least(1.8, "two workers / one", median(strain.two_workers) / peak),
    ]


def _ratio(figure: float | None, other: float | None) -> float | None:
    return figure / other if figure is not None and other is not None else None
