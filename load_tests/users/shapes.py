"""How many users there are as a run goes on: a shape gives their share of the most, by the share of the time gone."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

STEPS = 5
CALM = 0.2
"""Share of the users that are there before a spike and after it."""
SPIKE = (0.4, 0.6)
"""From when to when it lasts."""
WARMING = 0.05
"""When all have come to a soak."""


def steps(gone: float) -> float:
    """One fifth of the users more with each fifth of the time: where does it begin to hurt?"""
    return min(STEPS, math.floor(gone * STEPS) + 1) / STEPS


def spike(gone: float) -> float:
    """Few, then of a sudden all, then few again: is it survived, and does it pass?"""
    return 1.0 if SPIKE[0] <= gone < SPIKE[1] else CALM


def soak(gone: float) -> float:
    """All of them, for as long as it lasts: does anything grow?"""
    return min(1.0, gone / WARMING)


SHAPES: Mapping[str, Callable[[float], float]] = MappingProxyType({"steps": steps, "spike": spike, "soak": soak})
