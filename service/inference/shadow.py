"""A copy of a share of a model's requests goes to another version too, and the answers are compared in the metrics.

It happens after the client has the answer, one copy at a time and only while nothing else is to be done: under load
copies are dropped. The other version reads a task's request with its own predictor, since what it becomes may differ
between versions. Whatever goes wrong with a copy is counted, and no client ever meets it.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from service.errors import Unavailable
from service.observability.metrics import ShadowSeries
from service.registry.card import Card
from service.registry.registry import ModelRegistry
from service.registry.verification import GOLDEN_TOLERANCE
from service.registry.versions import LoadedVersion
from service.tasks.base import Payload
from service.tensors import Tensors, take_rows
from service.traffic_split import TrafficSplit

MOST_WAITING = 4
"""Copies of a model's requests that wait; each may be as large as a body may be."""

PAUSE = 0.002
"""Seconds between an answer and its copy: under load the next request is there by then, and the copy dropped."""

STAND_BACK = 0.1
"""Seconds for which, under load, copies are dropped without another look: each look would cost a tenth of a request."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows on which two versions agree and differ, and the largest absolute difference of their outputs."""

    agree: int
    differ: int
    difference: float


@dataclass(frozen=True, slots=True)
class Copy:
    """A request that has been answered."""

    asked: Payload | Tensors
    """A task's request, or the tensors of a client that asks in them."""
    served: LoadedVersion
    """What answered it."""
    outputs: Tensors
    series: ShadowSeries


class Shadow:
    """The other version of one model. Belongs to one event loop."""

    def __init__(
        self,
        model: str,
        diversion: TrafficSplit,
        models: ModelRegistry,
        decode: Callable[[LoadedVersion, Payload], Awaitable[tuple[Tensors, Any]]],
        is_idle: Callable[[], bool],
    ) -> None:
        """Copies requests for `model`.

        Args:
            model: its name.
            diversion: the version that gets copies, and of what share.
            models: all that answer.
            decode: gives the inputs that a task's request becomes for a version, and what selecting rows takes.
            is_idle: whether there is nothing else to be done.
        """
        self._model = model
        self._diversion = diversion
        self._models = models
        self._decode = decode
        self._is_idle = is_idle
        self._series = cache(lambda number: ShadowSeries(model, number, diversion.version))
        self._waiting: deque[Copy] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._stands_back = False
        self._failing = False
        """Whether the last copy failed: the log tells of the first of many."""

    def offer(self, request_id: str, asked: Payload | Tensors, served: LoadedVersion, outputs: Tensors) -> None:
        """Copies a request that `served` has answered with `outputs`, if it is one of the share and there is room."""
        number = served.number
        if number == self._diversion.version or not self._diversion.takes(request_id, "shadow"):
            return
        series = self._series(number)
        if self._stands_back or len(self._waiting) == MOST_WAITING:
            series.dropped(_rows(outputs))
            return
        self._waiting.append(Copy(asked, served, outputs, series))
        if self._worker is None:
            # In a context of its own: what it does is no part of the call that it follows.
            self._worker = asyncio.get_running_loop().create_task(self._work(), context=Context())

    async def close(self) -> None:
        """Gives up what is under way."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        """Follows copies until none waits."""
        try:
            while self._waiting:
                await asyncio.sleep(PAUSE)
                if self._is_idle():
                    await self._follow(self._waiting.popleft())
                else:
                    await self._stand_back()
        finally:
            self._worker = None

    async def _stand_back(self) -> None:
        """Drops the copies that wait, and for a while those that come."""
        while self._waiting:
            copy = self._waiting.popleft()
            copy.series.dropped(_rows(copy.outputs))
        self._stands_back = True
        await asyncio.sleep(STAND_BACK)
        self._stands_back = False

    async def _follow(self, copy: Copy) -> None:
        """Asks the shadow what a client has asked, and counts what comes of it."""
        card, names = copy.served.card, copy.served.task.outputs
        try:
            comparison = compare(card, names, copy.outputs, await self._ask(copy.asked))
        except Unavailable:
            copy.series.dropped(_rows(copy.outputs))
        except Exception as error:  # whatever a version on trial does, the others serve
            copy.series.failed(_rows(copy.outputs))
            if not self._failing:
                logger.warning("model %s: the shadow fails: %s", self._model, error)
            self._failing = True
        else:
            copy.series.compared(comparison.agree, comparison.differ, comparison.difference)
            self._failing = False

    async def _ask(self, asked: Payload | Tensors) -> Tensors:
        """What the shadow answers.

        Raises:
            Unavailable: it is not ready, or others have come first after all.
            NotFound: there is no such version.
        """
        shadow = self._models.find(self._model, self._diversion.version)
        if isinstance(asked, Mapping):
            return await shadow.batcher.submit(asked)
        inputs, facts = await self._decode(shadow, asked)
        outputs = await shadow.batcher.submit(inputs)
        return take_rows(outputs, shadow.task.select(outputs, facts))


def compare(card: Card, names: Sequence[str], outputs: Tensors, others: Tensors) -> Comparison:
    """What two versions of a model make of the same rows.

    They agree on a row if they take it for the same class or, where the model tells no classes, if what they give is
    the same but for rounding.

    Args:
        card: of either.
        names: the outputs that are compared.
        outputs: of one version.
        others: of the other.

    Raises:
        ValueError: the outputs cannot be compared.
    """
    rows = len(outputs[names[0]])
    agree = np.ones(rows, bool)
    largest = 0.0
    for name in names:
        one, other = outputs[name].astype(np.float64), others[name].astype(np.float64)
        if one.shape != other.shape:
            raise ValueError(f"{name} is {one.shape} in one version and {other.shape} in the other")
        if not (np.isfinite(one) & np.isfinite(other)).all():
            raise ValueError(f"{name} has infinities, or what is not a number")
        difference = np.abs(one - other)
        largest = max(largest, float(difference.max()))
        if name == card.scores:
            agree &= one.argmax(1) == other.argmax(1)
        else:
            agree &= (difference <= GOLDEN_TOLERANCE[outputs[name].dtype.kind]).reshape(rows, -1).all(1)
    same = int(agree.sum())
    return Comparison(same, rows - same, largest)


def _rows(tensors: Tensors) -> int:
    return len(next(iter(tensors.values())))
