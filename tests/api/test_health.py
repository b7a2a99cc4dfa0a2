"""After SIGTERM a worker drains, and stops when its time is over or at the second SIGTERM."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from service.api.health import Health
from service.errors import Unavailable
from service.registry.readiness import Readiness

pytestmark = pytest.mark.anyio


class Models(Readiness):
    """The readiness of models, as a test sets it."""

    def __init__(self, *, ready: bool) -> None:
        self.ready = ready

    def check(self) -> None:
        if not self.ready:
            raise Unavailable("Not every model is ready.")


@dataclass
class Stop:
    """The handler of SIGTERM that was there before: it stops the worker."""

    called: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, *_: object) -> None:
        self.called.set()


@pytest.fixture
def stop() -> Iterator[Stop]:
    handler = Stop()
    before = signal.signal(signal.SIGTERM, handler)
    yield handler
    signal.signal(signal.SIGTERM, before)


async def test_a_worker_is_ready_if_its_models_are_and_it_does_not_drain() -> None:
    models = Models(ready=True)
    health = Health(lambda: models)
    health.check_ready()
    health.is_draining = True
    with pytest.raises(Unavailable, match="about to stop"):
        health.check_ready()
    health.is_draining, models.ready = False, False
    with pytest.raises(Unavailable, match="Not every model"):
        health.check_ready()


async def test_a_worker_drains_before_it_stops(stop: Stop) -> None:
    health = Health(lambda: Models(ready=True))
    health.drain_on_sigterm(0.2)
    began = time.monotonic()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.05)
    assert (health.is_draining, stop.called.is_set()) == (True, False)
    await asyncio.wait_for(stop.called.wait(), 5)
    assert time.monotonic() - began >= 0.2


async def test_a_second_sigterm_stops_at_once(stop: Stop) -> None:
    health = Health(lambda: Models(ready=True))
    health.drain_on_sigterm(60)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(stop.called.wait(), 5)


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz", "/metrics"])
async def test_probes_are_public_and_reach_a_pod_by_its_address(path: str) -> None:
    found: list[Any] = [route for route in Health(lambda: Models(ready=True)).routes if route.template == path]
    assert [(route.method, route.is_probe, route.access) for route in found] == [("GET", True, "public")]
