"""Deadlines and request ids."""

import asyncio
import time

import pytest

from service.context import Deadline, new_request_id
from service.errors import DeadlineExceeded

pytestmark = pytest.mark.anyio


def soon(seconds: float = 0.02) -> Deadline:
    return Deadline(time.perf_counter() + seconds)


async def test_block_that_ends_in_time_is_not_affected() -> None:
    with soon():
        await asyncio.sleep(0)
    await asyncio.sleep(0.03)  # the timer is stopped


async def test_block_is_cancelled_when_the_time_is_up() -> None:
    started = time.perf_counter()
    with pytest.raises(DeadlineExceeded), soon():
        await asyncio.sleep(10)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    assert 0.02 <= time.perf_counter() - started < 5


@pytest.mark.parametrize("seconds", [0, -1])
async def test_block_does_not_start_after_its_deadline(seconds: float) -> None:
    entered = False
    with pytest.raises(DeadlineExceeded), soon(seconds):
        entered = True
    assert not entered


@pytest.mark.parametrize(("outer", "inner"), [(0.02, 10), (10, 0.02)])
async def test_of_nested_deadlines_the_earlier_one_counts(outer: float, inner: float) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(DeadlineExceeded), soon(outer), soon(inner):
            await asyncio.sleep(10)


async def test_cancellation_by_somebody_else_is_not_a_deadline() -> None:
    async def work() -> None:
        with soon(10):
            await asyncio.sleep(10)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_errors_in_the_block_are_kept() -> None:
    with pytest.raises(KeyError), soon():
        raise KeyError


def test_request_ids_are_unique_and_have_32_hexadecimal_digits() -> None:
    ids = [new_request_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in ids)
