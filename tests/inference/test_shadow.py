"""Copies of requests for another version: what is compared, and what never happens to a client for it."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from service.inference.shadow import MOST_WAITING, STAND_BACK, Shadow, compare
from service.observability.exposition import TEXT, exposition
from service.observability.series import flush
from service.registry.card import Card
from service.registry.registry import LoadedVersion, ModelRegistry
from service.settings import Settings
from service.tasks.base import Payload
from service.tasks.digits import DigitsTask
from service.tensors import Tensors
from service.traffic_split import TrafficSplit
from tests.places import MODELS

pytestmark = pytest.mark.anyio

DIGITS, FASHION = (Card.read(MODELS / name / "1") for name in ("digits", "fashion"))
BLANK = {"pictures": np.zeros((1, 28, 28), np.uint8)}


def probabilities(*rows: int, sure: float = 0.9) -> Tensors:
    """Rows that take their digit for likely."""
    values = np.full((len(rows), 10), (1 - sure) / 9, np.float32)
    values[np.arange(len(rows)), rows] = sure
    return {"probabilities": values}


def test_rows_agree_on_their_class_however_sure_they_are() -> None:
    found = compare(DIGITS, ["probabilities"], probabilities(1, 2, 3), probabilities(1, 7, 3, sure=0.8))
    assert (found.agree, found.differ) == (2, 1)
    assert found.difference == pytest.approx(0.9 - 0.2 / 9)
    same = compare(DIGITS, ["probabilities"], probabilities(4), probabilities(4))
    assert (same.agree, same.differ, same.difference) == (1, 0, 0)


def test_without_classes_rows_agree_if_they_are_the_same_but_for_rounding() -> None:
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
def test_what_is_no_answer_to_the_same_question_is_not_compared(others: Tensors) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        compare(DIGITS, ["probabilities"], probabilities(1), others)


@pytest.fixture(scope="module")
def models() -> ModelRegistry:
    made = ModelRegistry(Settings(models_dir=MODELS), {"digits": DigitsTask})
    made.load("digits", ["1", "2"], None)
    return made


@asynccontextmanager
async def shadow(models: ModelRegistry, version: str = "1", share: float = 1) -> AsyncIterator[Shadow]:
    async def decode(_served: LoadedVersion, _request: Payload) -> tuple[Tensors, None]:
        raise AssertionError("these tests ask in tensors")

    made = Shadow("digits", TrafficSplit(version=version, share=share), models, decode, lambda: models.idle)
    try:
        yield made
    finally:
        await made.close()


def counts(shadow: str = "1") -> dict[str, float]:
    """Rows of copies of requests for version 2, by what became of them."""
    pattern = rf'^deepserve_shadow_rows_total{{model="digits",outcome="(\w+)",shadow="{shadow}",version="2"}} (\S+)'
    flush()
    found = dict(re.findall(pattern, exposition(TEXT)[0].decode(), re.MULTILINE))
    return {outcome: float(found.get(outcome, 0)) for outcome in ("agree", "differ", "dropped", "failed")}


async def until_counted(rows: float, shadow: str = "1") -> dict[str, float]:
    async with asyncio.timeout(10):
        while sum(counts(shadow).values()) < rows:  # noqa: ASYNC110  # metrics set no event
            await asyncio.sleep(0.001)
    return counts(shadow)


async def test_a_copy_is_compared_with_what_the_client_got(models: ModelRegistry) -> None:
    before = counts()
    served = models.find("digits", "2")
    async with shadow(models) as other:
        other.offer("id", BLANK, served, await served.batcher.submit(BLANK))
        after = await until_counted(sum(before.values()) + 1)
    assert after["agree"] + after["differ"] == before["agree"] + before["differ"] + 1


async def test_only_so_many_copies_wait_and_none_outlives_the_service(models: ModelRegistry) -> None:
    before, tasks = counts(), asyncio.all_tasks()
    served = models.find("digits", "2")
    outputs = await served.batcher.submit(BLANK)
    async with shadow(models) as other:
        for _ in range(MOST_WAITING + 3):
            other.offer("id", BLANK, served, outputs)
    after = counts()
    assert {name: after[name] - before[name] for name in after} == {"agree": 0, "differ": 0, "dropped": 3, "failed": 0}
    assert asyncio.all_tasks() == tasks


async def test_clients_come_first(models: ModelRegistry) -> None:
    before = counts()
    served = models.find("digits", "2")
    many = {"pictures": np.zeros((4000, 28, 28), np.uint8)}
    async with shadow(models) as other:
        outputs = await served.batcher.submit(BLANK)
        client = asyncio.create_task(served.batcher.submit(many))
        await asyncio.sleep(0)
        other.offer("id", BLANK, served, outputs)
        after = await until_counted(sum(before.values()) + 1)
        assert after["dropped"] == before["dropped"] + 1
        assert not client.done()
        other.offer("id", BLANK, served, outputs)
        after = await until_counted(sum(before.values()) + 2)
        assert after["dropped"] == before["dropped"] + 2
        await client
        await asyncio.sleep(2 * STAND_BACK)
        other.offer("id", BLANK, served, outputs)
        again = await until_counted(sum(after.values()) + 1)
    assert again["dropped"] == after["dropped"]


@pytest.mark.parametrize("diversion", [("1", 0), ("2", 1)], ids=["none is wanted", "it answers itself"])
async def test_some_requests_are_not_copied(models: ModelRegistry, diversion: tuple[str, float]) -> None:
    before = counts()
    served = models.find("digits", "2")
    async with shadow(models, *diversion) as other:
        other.offer("id", BLANK, served, await served.batcher.submit(BLANK))
        await asyncio.sleep(0.05)
    assert counts() == before


async def test_the_log_tells_once_that_a_shadow_fails(models: ModelRegistry, caplog: pytest.LogCaptureFixture) -> None:
    before = counts("9")
    served = models.find("digits", "2")
    outputs = await served.batcher.submit(BLANK)
    with caplog.at_level(logging.WARNING, "service.inference.shadow"):
        async with shadow(models, "9") as other:
            for number in range(3):
                other.offer("id", BLANK, served, outputs)
                after = await until_counted(sum(before.values()) + number + 1, "9")
    assert after["failed"] == before["failed"] + 3
    assert len(caplog.records) == 1
