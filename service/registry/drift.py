"""Watches whether what a version is asked, and what it says, is still like what it was made from.

It looks at some of the requests, at all while they are few, whatever door they came by and whether or not their answer
was kept. Of each row it counts the features that the task names, and the predicted class, in the bins of the card; the
metrics tell how far these counts are from the card's shares.
"""

import math
import random
import time
from collections.abc import Callable, Mapping

import numpy as np

from service.observability.drift import DRIFT
from service.observability.psi import count_by_bin
from service.registry.card import PREDICTION, Card
from service.tensors import Array, Tensors

Features = Callable[[Tensors], Mapping[str, Array]]

PACE = 5
"""Requests a second that are looked at where there are more: to look at one costs 30 to 80 us, and several times that
where the processor has done other things since the last."""

MEASURED = 64
"""Requests over which it is measured how many there are a second."""

MOST_ROWS = 64
"""Of a request, spread evenly over it."""


class DriftMonitor:
    """What is watched of one version. Belongs to one event loop."""

    def __init__(self, card: Card, features: Features) -> None:
        """Watches nothing until it is begun, or where the card has no distributions."""
        self._features_of = features
        self._scores = card.scores
        self._features = {
            name: (DRIFT.labels(card.name, card.version, name), np.array(usual.edges), usual.shares)
            for name, usual in card.distributions.items()
        }
        self._sample = Sample()
        self._left = math.inf
        """Requests until the next that is looked at."""

    def begin(self) -> None:
        """The version answers from now on; nothing has been seen of it yet."""
        for seen, _, usual in self._features.values():
            seen.begin(usual)
        if self._features:
            self._left = 1

    def end(self) -> None:
        """The version answers no longer."""
        self._left = math.inf
        for seen, _, _ in self._features.values():
            seen.end()

    def observe(self, inputs: Tensors, outputs: Tensors) -> None:
        """A request with `inputs` was answered with `outputs`."""
        self._left -= 1
        if self._left <= 0:
            self._left = self._sample.gap()
            self._count(inputs, outputs)

    def _count(self, inputs: Tensors, outputs: Tensors) -> None:
        rows = len(next(iter(inputs.values())))
        some = slice(None, None, math.ceil(rows / MOST_ROWS))
        found = {**self._features_of({name: values[some] for name, values in inputs.items()})}
        if self._scores is not None:
            found[PREDICTION] = outputs[self._scores][some].argmax(1)
        for name, values in found.items():
            if name in self._features:
                seen, edges, _ = self._features[name]
                seen.add(count_by_bin(values, edges))


class Sample:
    """Chooses among requests that follow each other, so that all have the same chance and about `PACE` a second."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Chooses all until it knows how many there are, in seconds by `clock`."""
        self._clock = clock
        self._every = 1.0
        """One in so many is chosen."""
        self._passed = 0
        """Requests since..."""
        self._since = clock()

    def gap(self) -> int:
        """Which request is the next: 1 is the very next one."""
        if self._passed >= MEASURED:
            now = self._clock()
            self._every = max(1.0, self._passed / (now - self._since) / PACE)
            self._passed, self._since = 0, now
        gap = 1 + int(random.random() * (2 * self._every - 1))
        self._passed += gap
        return gap
