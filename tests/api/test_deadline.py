"""A deadline cancels a request that takes too long."""

import asyncio
import time

import pytest

from service.api.deadline import Deadline, timeout_seconds
from service.errors import DeadlineExceeded, Invalid


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 20), (b"1", 1), (b"0.25", 0.25), (b"1e1", 10), (b" 5 ", 5), (b"20.1", 20)]
)
def test_a_client_may_ask_for_less_time_than_the_server_allows(header: bytes | None, seconds: float) -> None:
    assert timeout_seconds(header, 20) == seconds


@pytest.mark.parametrize("header", [b"", b"0", b"-1", b"nan", b"inf", b"-inf", b"soon", b"1s", b"1,2", b"\xff"])
def test_any_other_value_is_invalid(header: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        timeout_seconds(header, 20)
    [fault] = refused.value.faults
    assert fault.loc == ("header", "X-Request-Timeout")


async def sleep_within(deadline_seconds: float, seconds: float) -> str:
    with Deadline(deadline_seconds):
        return await asyncio.sleep(seconds, "done")


@pytest.mark.anyio
async def test_a_body_that_takes_longer_is_cancelled() -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await sleep_within(0.01, 60)
    assert time.monotonic() - began < 10
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0, "the task may go on"


@pytest.mark.anyio
async def test_a_body_that_ends_in_time_is_left_alone() -> None:
    assert await sleep_within(0.01, 0) == "done"
    await asyncio.sleep(0.03)


@pytest.mark.anyio
async def test_an_error_of_the_body_passes_through() -> None:
    with pytest.raises(KeyError), Deadline(60):
        raise KeyError


@pytest.mark.anyio
async def test_a_cancellation_from_elsewhere_is_not_a_passed_deadline() -> None:
    task = asyncio.create_task(sleep_within(60, 60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
