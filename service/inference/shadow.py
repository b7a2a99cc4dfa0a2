"""Shadow traffic: a share of a model's requests is copied to another version, and metrics compare the outputs.

A copy runs after the client has its response, one at a time and only while the worker is idle; under load copies are
dropped. The other version preprocesses the request itself, since preprocessing may differ between versions. A failing
copy is counted and never affects a client.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from service.errors import Unavailable
from service.inference.request import Request
from service.observability.metrics import ShadowSeries
from service.registry.card import Card
from service.registry.registry import ModelRegistry
from service.registry.verification import GOLDEN_TOLERANCE
from service.registry.versions import LoadedVersion
from service.tensors import Tensors, row_count
from service.traffic_split import TrafficSplit

MAX_WAITING = 4
"""Copies that wait; each may be as large as a request body."""

DELAY_SECONDS = 0.002
"""Time between a response and its copy: under load the next request arrives within it, and the copy is dropped."""

BACK_OFF_SECONDS = 0.1
"""Time for which, under load, copies are dropped without a check, which would cost a tenth of a request each."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows on which two versions agree and differ, and the largest absolute difference of their outputs."""

    agree: int
    differ: int
    difference: float


@dataclass(frozen=True, slots=True)
class Copy:
    """A request that has been served."""

    request: Request
    loaded: LoadedVersion
    """The version that served it."""
    outputs: Tensors
    series: ShadowSeries


class Shadow:
    """The version of a model that gets copies. Belongs to one event loop."""

    def __init__(
        self,
        model: str,
        split: TrafficSplit,
        models: ModelRegistry,
        infer: Callable[[LoadedVersion, Request], Awaitable[Tensors]],
        is_idle: Callable[[], bool],
    ) -> None:
        """Copy requests for `model`.

        Args:
            model: name of the model.
            split: the version that gets copies, and the share of the requests.
            models: finds the version.
            infer: computes a version's outputs for a request.
            is_idle: returns whether the worker has nothing else to do.
        """
        self._model = model
        self._split = split
        self._models = models
        self._infer = infer
        self._is_idle = is_idle
        self._series = cache(lambda number: ShadowSeries(model, number, split.version))
        self._waiting: deque[Copy] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._backs_off = False
        self._failing = False
        """Whether the last copy failed: only the first of consecutive failures is logged."""

    def offer(self, request_id: str, request: Request, loaded: LoadedVersion, outputs: Tensors) -> None:
        """Copy a request that `loaded` has served with `outputs`, if it belongs to the share and there is room."""
        if loaded.number == self._split.version or not self._split.takes(request_id, "shadow"):
            return
        series = self._series(loaded.number)
        if self._backs_off or len(self._waiting) == MAX_WAITING:
            series.dropped(row_count(outputs))
            return
        self._waiting.append(Copy(request, loaded, outputs, series))
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Cancel the copies."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        """Process copies until none waits."""
        try:
            while self._waiting:
                await asyncio.sleep(DELAY_SECONDS)
                if self._is_idle():
                    await self._process(self._waiting.popleft())
                else:
                    await self._back_off()
        finally:
            self._worker = None

    async def _back_off(self) -> None:
        """Drop the copies that wait and, for a while, new ones."""
        while self._waiting:
            copy = self._waiting.popleft()
            copy.series.dropped(row_count(copy.outputs))
        self._backs_off = True
        await asyncio.sleep(BACK_OFF_SECONDS)
        self._backs_off = False

    async def _process(self, copy: Copy) -> None:
        """Send a copy to the other version and count the result."""
        card, names = copy.loaded.card, copy.loaded.task.outputs
        try:
            shadow = self._models.find(self._model, self._split.version)
            comparison = compare(card, names, copy.outputs, await self._infer(shadow, copy.request))
        except Unavailable:  # the version is not ready, or clients filled the queue first
            copy.series.dropped(row_count(copy.outputs))
        except Exception as error:  # a failing trial version must not affect the others
            copy.series.failed(row_count(copy.outputs))
            if not self._failing:
                logger.warning("model %s: the shadow fails: %s", self._model, error)
            self._failing = True
        else:
            copy.series.compared(comparison.agree, comparison.differ, comparison.difference)
            self._failing = False


def compare(card: Card, names: Sequence[str], outputs: Tensors, others: Tensors) -> Comparison:
    """Compare the outputs of two versions of a model for the same rows.

    Two rows agree if they predict the same class or, for a model without classes, if they are equal to the tolerance
    of golden cases.

    Args:
        card: of either version.
        names: the outputs to compare.
        outputs: of one version.
        others: of the other version.

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
            raise ValueError(f"{name} has infinite values or NaN")
        difference = np.abs(one - other)
        largest = max(largest, float(difference.max()))
        if name == card.scores:
            agree &= one.argmax(1) == other.argmax(1)
        else:
            agree &= (difference <= GOLDEN_TOLERANCE[outputs[name].dtype.kind]).reshape(rows, -1).all(1)
    same = int(agree.sum())
    return Comparison(same, rows - same, largest)
