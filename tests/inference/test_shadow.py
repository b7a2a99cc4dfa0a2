"""Shadow traffic: how outputs are compared, which requests are copied, and that clients come first."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from service.inference.binding import bind
from service.inference.request import Request, TensorRequest
from service.inference.shadow import BACK_OFF_SECONDS, MAX_WAITING, Shadow, compare
from service.observability.exposition import TEXT, exposition
from service.observability.series import flush
from service.registry.card import Card
from service.registry.registry import ModelRegistry
from service.registry.versions import LoadedVersion
from service.settings import Settings
from service.tensors import Tensors
from service.traffic_split import TrafficSplit
from tests.paths import MODELS

pytestmark = pytest.mark.anyio

DIGITS, FASHION = (Card.read(MODELS / name / "1") for name in ("digits", "fashion"))
BLANK = {"pictures": np.zeros((1, 28, 28), np.uint8)}
REQUEST = TensorRequest(BLANK, received=0.0)


def probabilities(*rows: int, sure: float = 0.9) -> Tensors:
    """Return rows in each of which the given digit has the probability `sure`."""
    values = np.full((len(rows), 10), (1 - sure) / 9, np.float32)
    values[np.arange(len(rows)), rows] = sure
    return {"probabilities": values}


def test_rows_agree_if_they_predict_the_same_class() -> None:
    found = compare(DIGITS, ["probabilities"], probabilities(1, 2, 3), probabilities(1, 7, 3, sure=0.8))
    assert (found.agree, found.differ) == (2, 1)
    assert found.difference == pytest.approx(0.9 - 0.2 / 9)
    same = compare(DIGITS, ["probabilities"], probabilities(4), probabilities(4))
    assert (same.agree, same.differ, same.difference) == (1, 0, 0)


def test_without_classes_rows_agree_if_they_are_equal_but_for_rounding() -> None:
    pictures = np.full((3, 28, 28), 100, np.uint8)
    others = pictures.copy()
    others[1, 5, 5] += 1
    others[2, 5, 5] -= 40
    found = compare(FASHION, ["picture"], {"picture": pictures}, {"picture": others})
    assert (found.agree, found.differ, found.difference) == (2, 1, 40)


@pytest.mark.parametrize(
    "others",
    [
        {"probabilities": np.full((1, 10), np.nan, np.float32)},
        {"probabilities": np.full((1, 10), np.inf, np.float32)},
        {"probabilities": np.full((1, 11), 0.1, np.float32)},
        {"probabilities": np.full((2, 10), 0.1, np.float32)},
    ],
)
def test_outputs_that_cannot_be_compared_are_an_error(others: Tensors) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        compare(DIGITS, ["probabilities"], probabilities(1), others)


@pytest.fixture(scope="module")
def models() -> ModelRegistry:
    made = ModelRegistry(Settings(models_dir=MODELS), bind)
    made.load("digits", ["1", "2"], None)
    return made


@asynccontextmanager
async def shadow(models: ModelRegistry, version: str = "1", share: float = 1) -> AsyncIterator[Shadow]:
    async def infer(loaded: LoadedVersion, request: Request) -> Tensors:
        assert isinstance(request, TensorRequest)
        outputs, _ = await loaded.batcher.submit(request.inputs)
        return outputs

    made = Shadow("digits", TrafficSplit(version=version, share=share), models, infer, lambda: models.idle)
    try:
        yield made
    finally:
        await made.close()


def counts(shadow: str = "1") -> dict[str, float]:
    """Return the rows of copied requests to version 2, by outcome."""
    pattern = rf'^deepserve_shadow_rows_total{{model="digits",outcome="(\w+)",shadow="{shadow}",version="2"}} (\S+)'
    flush()
    found = dict(re.findall(pattern, exposition(TEXT)[0].decode(), re.MULTILINE))
    return {outcome: float(found.get(outcome, 0)) for outcome in ("agree", "differ", "dropped", "failed")}


async def until_counted(rows: float, shadow: str = "1") -> dict[str, float]:
    async with asyncio.timeout(10):
        while sum(counts(shadow).values()) < rows:  # noqa: ASYNC110  # metrics set no event
            await asyncio.sleep(0.001)
    return counts(shadow)


async def test_copy_is_compared_with_the_response_of_the_client(models: ModelRegistry) -> None:
    before = counts()
    loaded = models.find("digits", "2")
    async with shadow(models) as other:
        other.offer("id", REQUEST, loaded, (await loaded.batcher.submit(BLANK))[0])
        after = await until_counted(sum(before.values()) + 1)
    assert after["agree"] + after["differ"] == before["agree"] + before["differ"] + 1


async def test_few_copies_wait_and_none_remains_after_close(models: ModelRegistry) -> None:
    before, tasks = counts(), asyncio.all_tasks()
    loaded = models.find("digits", "2")
    outputs, _ = await loaded.batcher.submit(BLANK)
    async with shadow(models) as other:
        for _ in range(MAX_WAITING + 3):
            other.offer("id", REQUEST, loaded, outputs)
    after = counts()
    assert {name: after[name] - before[name] for name in after} == {"agree": 0, "differ": 0, "dropped": 3, "failed": 0}
    assert asyncio.all_tasks() == tasks


async def test_copies_are_dropped_while_clients_wait(models: ModelRegistry) -> None:
    before = counts()
    loaded = models.find("digits", "2")
    many = {"pictures": np.zeros((4000, 28, 28), np.uint8)}
    async with shadow(models) as other:
        outputs, _ = await loaded.batcher.submit(BLANK)
        client = asyncio.create_task(loaded.batcher.submit(many))
        await asyncio.sleep(0)
        other.offer("id", REQUEST, loaded, outputs)
        after = await until_counted(sum(before.values()) + 1)
        assert after["dropped"] == before["dropped"] + 1
        assert not client.done()
        other.offer("id", REQUEST, loaded, outputs)
        after = await until_counted(sum(before.values()) + 2)
        assert after["dropped"] == before["dropped"] + 2
        await client
        await asyncio.sleep(2 * BACK_OFF_SECONDS)
        other.offer("id", REQUEST, loaded, outputs)
        again = await until_counted(sum(after.values()) + 1)
    assert again["dropped"] == after["dropped"]


@pytest.mark.parametrize("split", [("1", 0), ("2", 1)], ids=["share of 0", "served by the shadow itself"])
async def test_some_requests_are_not_copied(models: ModelRegistry, split: tuple[str, float]) -> None:
    before = counts()
    loaded = models.find("digits", "2")
    async with shadow(models, *split) as other:
        other.offer("id", REQUEST, loaded, (await loaded.batcher.submit(BLANK))[0])
        await asyncio.sleep(0.05)
    assert counts() == before


async def test_failing_shadow_is_logged_once(models: ModelRegistry, caplog: pytest.LogCaptureFixture) -> None:
    before = counts("9")
    loaded = models.find("digits", "2")
    outputs, _ = await loaded.batcher.submit(BLANK)
    with caplog.at_level(logging.WARNING, "service.inference.shadow"):
        async with shadow(models, "9") as other:
            for number in range(3):
                other.offer("id", REQUEST, loaded, outputs)
                after = await until_counted(sum(before.values()) + number + 1, "9")
    assert after["failed"] == before["failed"] + 3
    assert len(caplog.records) == 1
