"""The open loop: requests are sent when they are due, and who waits is seen to wait."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.open_loop import evenly, offer, poisson

WORK = 0.05
ANSWER = b"HTTP/1.1 200 OK\r\nX-Request-ID: one\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def slow_server() -> AsyncIterator[str]:
    """Takes `WORK` seconds for each request on a connection."""

    handlers = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n") != b"HANG UP\r\n\r\n":
                await asyncio.sleep(WORK)
                writer.write(ANSWER)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*handlers)


@pytest.mark.anyio
async def test_time_counts_from_when_a_request_was_due_not_from_when_it_could_be_sent() -> None:
    async with slow_server() as url:
        dues = await offer(url, repeat(b"GET\r\n\r\n"), np.zeros(4), connections=1)
    for place, due in enumerate(dues, 1):
        assert due.end is not None
        assert due.seconds >= place * WORK
        assert due.end.request_id == "one"
        assert due.end.body == b"ok"


@pytest.mark.anyio
async def test_who_does_not_wait_for_a_connection_is_not_sent() -> None:
    async with slow_server() as url:
        dues = await offer(url, repeat(b"GET\r\n\r\n"), np.zeros(4), connections=3, patient=False)
    assert [due.sent for due in dues] == [True, True, True, False]
    assert math.isinf(dues[-1].seconds)


@pytest.mark.anyio
async def test_a_lost_answer_takes_for_ever() -> None:
    async with slow_server() as url:
        (due,) = await offer(url, repeat(b"HANG UP\r\n\r\n"), np.zeros(1), connections=1, last_answer_seconds=0.1)
    assert due.sent
    assert math.isinf(due.seconds)


@given(rate=st.floats(200, 2000), seed=st.integers(0, 1000))
def test_random_moments_have_their_rate_and_do_not_know_of_each_other(rate: float, seed: int) -> None:
    moments = poisson(rate, 10.0, np.random.default_rng(seed))
    gaps = np.diff(moments)
    assert len(moments) == pytest.approx(10 * rate, abs=6 * math.sqrt(10 * rate))
    assert (gaps >= 0).all()
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.15)


def test_even_moments_are_evenly_apart() -> None:
    assert evenly(4, 1).tolist() == [0, 0.25, 0.5, 0.75]
