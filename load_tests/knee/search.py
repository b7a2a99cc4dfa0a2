"""The search for the knee: the rate is doubled until the bound breaks, halved in, and asked again in the end.

A rate holds if the median of its rounds does. Near the knee that is a matter of luck, and the highest rate that was
ever lucky is too high: so it goes down until a rate holds once more, in rounds that had no part in its being chosen.
Rounds in which other programs had the cores are taken again.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, islice
from statistics import median
from typing import Protocol

from load_tests.knee.round import Round
from load_tests.machine import say

PRECISION = 1.05
"""How close the rates that hold and that break are in the end."""
ATTEMPTS = 4
"""A round that other programs have disturbed is taken so many times at most."""


class Rounds(Protocol):
    """Who is asked."""

    def round(self, rate: float, seed: int) -> Round:
        """One round at that many requests a second."""


@dataclass(frozen=True)
class Found:
    """Where the search has ended."""

    rate: float
    """The highest that holds, requests a second."""
    rounds: list[Round]
    """In which it was asked again."""
    tried: list[tuple[float, float]]
    """Rates and the medians of their p99 in milliseconds, ascending."""


class Search:
    """For the highest rate whose p99 is at most `bound` milliseconds, in so many `rounds` of each."""

    def __init__(self, target: Rounds, bound: float, rounds: int) -> None:
        self._target, self._bound, self._rounds = target, bound, rounds
        self._seeds = count()
        self._tried: list[tuple[float, float]] = []

    def run(self, start: float) -> Found:
        """Begins at that rate.

        Raises:
            SystemExit: the bound breaks at one request a second.
        """
        rate = highest(self._p99, self._bound, start)
        rounds = [self._quiet_round(rate) for _ in range(self._rounds)]
        while self._note(rate, [one.p99 for one in rounds]) > self._bound:
            rate = lower(rate, self._bound)
            rounds = [self._quiet_round(rate) for _ in range(self._rounds)]
        return Found(rate, rounds, sorted(self._tried))

    def _p99(self, rate: float) -> float:
        found: list[float] = []
        while len(found) < self._rounds and not _decided(found, self._bound, self._rounds):
            found.append(self._quiet_round(rate).p99)
        return self._note(rate, found)

    def _note(self, rate: float, p99: Sequence[float]) -> float:
        """Their median."""
        middle = median(p99)
        self._tried.append((rate, middle))
        say(f"  {rate:,.0f}/s: p99 {', '.join(f'{one:.1f}' for one in p99)} ms")
        return middle

    def _quiet_round(self, rate: float) -> Round:
        """One that other programs have not disturbed, or of several the one that they have disturbed least."""
        rounds = []
        for seed in islice(self._seeds, ATTEMPTS):
            rounds.append(self._target.round(rate, seed))
            if rounds[-1].disturbed <= 1:
                break
        return min(rounds, key=lambda one: one.disturbed)


def highest(p99: Callable[[float], float], bound: float, start: float) -> float:
    """The highest rate, to within `PRECISION`, whose `p99` is at most `bound`.

    Raises:
        SystemExit: there is none above one request a second.
    """
    holds, breaks, rate = 0.0, math.inf, start
    while breaks > PRECISION * holds:
        if p99(rate) <= bound:
            holds = rate
            rate = rate * 2 if math.isinf(breaks) else math.sqrt(holds * breaks)
        else:
            breaks = rate
            rate = math.sqrt(holds * breaks) if holds else lower(rate, bound, by=2)
    return holds


def lower(rate: float, bound: float, by: float = PRECISION) -> float:
    """The next lower rate to try.

    Raises:
        SystemExit: it is below one request a second.
    """
    if rate / by < 1:
        raise SystemExit(f"not even one request a second is answered within {bound:g} ms")
    return rate / by


def _decided(found: Sequence[float], bound: float, rounds: int) -> bool:
    """Whether further rounds cannot change on which side of the bound the median is."""
    kept = sum(one <= bound for one in found)
    return max(kept, len(found) - kept) > rounds / 2
