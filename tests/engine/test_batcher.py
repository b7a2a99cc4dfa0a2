"""What a caller of the batcher can rely on, with sessions that are slow or fail on demand."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.batcher import Batcher, RunTimes
from service.engine.queue import RUN_ELEMENTS, Limits
from service.errors import Unavailable
from service.tensors import Tensors

pytestmark = pytest.mark.anyio


class Recorder:
    """Doubles its rows, keeps the batches it was given, and can be held up or made to fail."""

    def __init__(self, fails: Callable[[Tensors], bool] = lambda _: False, held: bool = False) -> None:
        self.batches: list[np.ndarray] = []
        self.gate = threading.Event()
        self._fails = fails
        if not held:
            self.gate.set()

    def __call__(self, inputs: Tensors) -> Tensors:
        assert self.gate.wait(5)
        self.batches.append(inputs["x"])
        if self._fails(inputs):
            raise ValueError("a bad row")
        return {"y": inputs["x"] * 2}

    @property
    def rows(self) -> list[int]:
        return [len(batch) for batch in self.batches]


@asynccontextmanager
async def batcher(run: Recorder, sequence: str | None = None, **limits: float) -> AsyncIterator[Batcher]:
    made = Batcher(run, Limits(**limits), sequence)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        run.gate.set()
        await made.close()


def rows(*values: int) -> Tensors:
    return {"x": np.array(values)[:, None]}


async def answers(*waiting: asyncio.Task[Tensors]) -> list[list[int]]:
    return [outputs["y"][:, 0].tolist() for outputs in await asyncio.gather(*waiting)]


async def queued(on: Batcher, *inputs: Tensors) -> list[asyncio.Task[Tensors]]:
    """Requests that came one after the other: on an idle batcher the first is under way, the others wait."""
    tasks = []
    for each in inputs:
        tasks.append(asyncio.create_task(on.submit(each)))
        for _ in range(3):
            await asyncio.sleep(0)
    return tasks


async def test_a_lone_request_runs_at_once() -> None:
    run = Recorder()
    async with batcher(run) as b:
        assert await answers(asyncio.create_task(b.submit(rows(1, 2)))) == [[2, 4]]
    assert run.rows == [2]


async def test_requests_that_arrive_during_a_run_share_the_next() -> None:
    run = Recorder(held=True)
    async with batcher(run) as b:
        tasks = await queued(b, *(rows(i) for i in range(10)))
        run.gate.set()
        assert await answers(*tasks) == [[2 * i] for i in range(10)]
    assert run.rows == [1, 9]


async def test_a_request_larger_than_a_run_is_split_and_comes_back_in_order() -> None:
    run = Recorder()
    async with batcher(run, run_rows=4) as b:
        assert await answers(asyncio.create_task(b.submit(rows(*range(10))))) == [list(range(0, 20, 2))]
    assert run.rows == [4, 4, 2]


async def test_a_full_queue_turns_away_at_once_and_says_when_to_come_back() -> None:
    run = Recorder(held=True)
    async with batcher(run, queue_rows=4) as b:
        tasks = await queued(b, rows(0), rows(1, 2, 3, 4))
        with pytest.raises(Unavailable) as refused:
            await b.submit(rows(5))
        assert 1 <= refused.value.retry_after_seconds <= 60
        run.gate.set()
        assert await answers(*tasks) == [[0], [2, 4, 6, 8]]


async def test_a_full_queue_says_when_it_is_empty_at_the_pace_of_the_last_runs() -> None:
    def slow(inputs: Tensors) -> Tensors:
        time.sleep(0.05)
        return inputs

    b = Batcher(slow, Limits(run_rows=1, queue_rows=60))
    tasks = [asyncio.create_task(b.submit(rows(i))) for i in range(10)]
    await asyncio.gather(*tasks)
    waiting = await queued(b, rows(0), *(rows(*range(10)) for _ in range(6)))
    with pytest.raises(Unavailable) as refused:
        await b.submit(rows(1))
    assert 3 <= refused.value.retry_after_seconds <= 6  # 60 rows at 0.05 seconds each, or somewhat more
    for task in waiting[1:]:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await b.close()


async def test_rows_that_nobody_waits_for_leave_room_in_the_queue() -> None:
    run = Recorder(held=True)
    async with batcher(run, queue_rows=4) as b:
        first, gone = await queued(b, rows(0), rows(1, 2, 3, 4))
        gone.cancel()
        (later,) = await queued(b, rows(5))
        run.gate.set()
        assert await answers(first, later) == [[0], [10]]
    assert run.rows == [1, 1]


@pytest.mark.parametrize("seconds", [0.05, 0, -1])
async def test_a_request_whose_deadline_passes_is_never_computed(seconds: float) -> None:
    run = Recorder(held=True)
    async with batcher(run) as b:
        (first,) = await queued(b, rows(0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await b.submit(rows(1))
        run.gate.set()
        assert await answers(first) == [[0]]
    assert run.rows == [1]


async def test_a_session_that_gives_too_few_rows_fails_its_request_and_no_other() -> None:
    def run(inputs: Tensors) -> Tensors:
        return {"y": inputs["x"][:1] if 13 in inputs["x"] else inputs["x"]}

    b = Batcher(run, Limits())
    with pytest.raises(ValueError, match="rows"):
        await b.submit(rows(13, 14))
    assert (await b.submit(rows(1, 2)))["y"][:, 0].tolist() == [1, 2]
    await b.close()


async def test_a_waiter_that_leaves_disturbs_no_other_and_is_not_computed() -> None:
    run = Recorder(held=True)
    async with batcher(run) as b:
        first, gone, last = await queued(b, rows(0), rows(1), rows(2))
        gone.cancel()
        run.gate.set()
        assert await answers(first, last) == [[0], [4]]
    assert [batch[:, 0].tolist() for batch in run.batches] == [[0], [2]]


async def test_a_waiter_that_leaves_during_its_run_disturbs_no_other() -> None:
    run = Recorder(held=True)
    async with batcher(run) as b:
        tasks = await queued(b, rows(0), rows(1), rows(2))
        tasks[0].cancel()  # its run is under way
        run.gate.set()
        assert await answers(*tasks[1:]) == [[2], [4]]
    assert run.rows == [1, 2]


@pytest.mark.parametrize("sequence", [None, "x"])
async def test_a_bad_row_of_a_split_request_fails_that_request_alone(sequence: str | None) -> None:
    run = Recorder(fails=lambda inputs: 13 in inputs["x"], held=True)
    async with batcher(run, sequence, run_rows=2) as b:
        first, good, bad, also_good = await queued(b, rows(1), rows(2, 3, 4), rows(5, 6, 13, 7, 8), rows(9, 10))
        run.gate.set()
        assert await answers(first, good, also_good) == [[2], [4, 6, 8], [18, 20]]
        with pytest.raises(ValueError, match="a bad row"):
            await bad


async def test_if_a_run_fails_only_the_bad_rows_request_fails() -> None:
    run = Recorder(fails=lambda inputs: 13 in inputs["x"], held=True)
    async with batcher(run) as b:
        first, good, bad, also_good = await queued(b, rows(0), rows(1), rows(2, 13), rows(3))
        run.gate.set()
        assert await answers(first, good, also_good) == [[0], [2], [6]]
        with pytest.raises(ValueError, match="a bad row"):
            await bad


async def test_the_queue_serves_on_after_a_failure() -> None:
    run = Recorder(fails=lambda inputs: 13 in inputs["x"])
    async with batcher(run) as b:
        with pytest.raises(ValueError, match="a bad row"):
            await b.submit(rows(13))
        assert await answers(asyncio.create_task(b.submit(rows(1)))) == [[2]]


class Ledger:
    """An observer that adds up what it is told."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.requests = self.failures = 0
        self._waiting: asyncio.Queue[int] = asyncio.Queue()
        self.seconds = self.waited = 0.0

    def waits(self, rows: int) -> None:
        self._waiting.put_nowait(rows)

    async def is_told_that_so_many_wait(self, rows: int) -> None:
        async with asyncio.timeout(5):
            while await self._waiting.get() != rows:
                pass

    def ran(self, rows: int, times: RunTimes) -> None:
        assert min(times) > 0
        self.rows.append(rows)

    def answered(self, seconds: float, waited: float) -> None:
        self.requests += 1
        self.seconds += seconds
        self.waited += waited

    def failed(self, seconds: float) -> None:
        assert seconds > 0
        self.failures += 1


async def test_an_observer_is_told_of_every_run_and_of_every_request_that_one_ends() -> None:
    run, ledger = Recorder(fails=lambda inputs: bool((inputs["x"] == 13).any()), held=True), Ledger()
    b = Batcher(run, Limits(run_rows=4), observer=ledger)
    tasks = await queued(b, rows(1), rows(2, 3, 4, 5, 6), rows(13), rows(7))
    await asyncio.sleep(0.05)
    run.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    await b.close()
    assert [isinstance(outcome, ValueError) for outcome in outcomes] == [False, False, True, False]
    assert sum(ledger.rows) == 7
    assert (ledger.requests, ledger.failures) == (3, 1)
    assert 0.14 < ledger.seconds < 5
    assert 0.09 < ledger.waited < ledger.seconds


async def test_an_observer_knows_how_many_rows_wait_while_a_run_is_under_way() -> None:
    run, ledger = Recorder(held=True), Ledger()
    b = Batcher(run, Limits(), observer=ledger)
    tasks = await queued(b, rows(0), rows(1), rows(2, 3))
    await ledger.is_told_that_so_many_wait(3)
    tasks += await queued(b, rows(4))
    await ledger.is_told_that_so_many_wait(4)
    run.gate.set()
    await answers(*tasks)
    await ledger.is_told_that_so_many_wait(0)
    await b.close()


async def test_with_max_wait_requests_that_come_close_together_share_a_run() -> None:
    run = Recorder()
    async with batcher(run, max_wait=0.1) as b:
        first = asyncio.create_task(b.submit(rows(1)))
        await asyncio.sleep(0.01)
        assert await answers(first, asyncio.create_task(b.submit(rows(2)))) == [[2], [4]]
    assert run.rows == [2]


async def test_with_max_wait_a_run_that_is_full_does_not_wait() -> None:
    run = Recorder()
    async with batcher(run, max_wait=60, run_rows=2) as b:
        assert await answers(*(asyncio.create_task(b.submit(rows(i))) for i in range(2))) == [[0], [2]]
        first = asyncio.create_task(b.submit(rows(1)))
        await asyncio.sleep(0.01)
        assert await answers(first, asyncio.create_task(b.submit(rows(2)))) == [[2], [4]]
    assert run.rows == [2, 2]


def sequences(*lengths: int) -> Tensors:
    """One row a length, padded to the longest: a row of length n is n times n."""
    return {"x": np.array([[length] * length + [0] * (max(lengths) - length) for length in lengths])}


async def test_sequences_run_with_others_of_their_length_and_are_padded_no_further() -> None:
    run = Recorder(held=True)
    async with batcher(run, sequence="x") as b:
        tasks = await queued(b, sequences(1), *(sequences(n) for n in (100, 400, 110, 390, 105)))
        run.gate.set()
        outputs = await asyncio.gather(*tasks)
    assert [batch.shape for batch in run.batches] == [(1, 1), (3, 110), (2, 400)]
    assert [int(output["y"].max()) for output in outputs] == [2, 200, 800, 220, 780, 210]


async def test_sequences_keep_to_the_budget_of_elements() -> None:
    run = Recorder(held=True)
    async with batcher(run, sequence="x") as b:
        tasks = await queued(b, sequences(1), *(sequences(RUN_ELEMENTS // 2) for _ in range(5)))
        run.gate.set()
        await asyncio.gather(*tasks)
    assert run.rows == [1, 2, 2, 1]


async def test_a_request_of_mixed_sequences_comes_back_in_order() -> None:
    def run(inputs: Tensors) -> Tensors:
        return {"y": inputs["x"].sum(1, keepdims=True)}

    b = Batcher(run, Limits(), "x")
    lengths = (300, 3, 150, 290, 5)
    outputs = await b.submit(sequences(*lengths))
    await b.close()
    assert outputs["y"][:, 0].tolist() == [n * n for n in lengths]


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), run_rows=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_every_request_gets_its_own_rows_however_they_are_batched(sizes: list[int], run_rows: int) -> None:
    async def check() -> None:
        run = Recorder()
        async with batcher(run, run_rows=run_rows) as b:
            first = np.cumsum([0, *sizes])
            requests = [rows(*range(start, start + size)) for start, size in zip(first, sizes, strict=False)]
            found = await answers(*(asyncio.create_task(b.submit(request)) for request in requests))
            assert found == [(2 * request["x"][:, 0]).tolist() for request in requests]
            assert max(run.rows) <= run_rows

    asyncio.run(check())
