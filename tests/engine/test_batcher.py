"""The batcher: how requests share runs, what fails, what is refused, and the times that it returns."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.batcher import Batcher
from service.engine.queue import RUN_ELEMENTS, Limits, RunTimings
from service.errors import Unavailable
from service.observability.observer import Observer, StageSeconds
from service.settings import Settings
from service.tensors import Tensors

pytestmark = pytest.mark.anyio

Pending = asyncio.Task[tuple[Tensors, RunTimings]]


class DoublingSession:
    """Doubles its inputs, records its batches, and can be blocked or made to fail."""

    def __init__(self, fails: Callable[[Tensors], bool] = lambda _: False, blocked: bool = False) -> None:
        self.batches: list[np.ndarray] = []
        self.gate = threading.Event()
        self._fails = fails
        if not blocked:
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
async def batcher(run: DoublingSession, sequence: str | None = None, **limits: float) -> AsyncIterator[Batcher]:
    made = Batcher(run, Limits(**limits), sequence)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        run.gate.set()
        await made.close()


def rows(*values: int) -> Tensors:
    return {"x": np.array(values)[:, None]}


async def outputs_of(*pending: Pending) -> list[list[int]]:
    return [outputs["y"][:, 0].tolist() for outputs, _ in await asyncio.gather(*pending)]


async def submit_in_order(to: Batcher, *inputs: Tensors) -> list[Pending]:
    """Submit one request after the other: on an idle batcher the first one runs and the others wait."""
    tasks = []
    for each in inputs:
        tasks.append(asyncio.create_task(to.submit(each)))
        for _ in range(3):
            await asyncio.sleep(0)
    return tasks


async def test_single_request_runs_at_once() -> None:
    run = DoublingSession()
    async with batcher(run) as b:
        assert await outputs_of(asyncio.create_task(b.submit(rows(1, 2)))) == [[2, 4]]
    assert run.rows == [2]


async def test_requests_that_arrive_during_a_run_share_the_next_run() -> None:
    run = DoublingSession(blocked=True)
    async with batcher(run) as b:
        tasks = await submit_in_order(b, *(rows(i) for i in range(10)))
        run.gate.set()
        assert await outputs_of(*tasks) == [[2 * i] for i in range(10)]
    assert run.rows == [1, 9]


async def test_request_larger_than_a_batch_is_split_and_keeps_its_order() -> None:
    run = DoublingSession()
    async with batcher(run, max_batch_rows=4) as b:
        assert await outputs_of(asyncio.create_task(b.submit(rows(*range(10))))) == [list(range(0, 20, 2))]
    assert run.rows == [4, 4, 2]


async def test_submit_returns_when_the_request_was_queued_and_when_its_run_started_and_ended() -> None:
    run = DoublingSession(blocked=True)
    async with batcher(run) as b:
        before = time.perf_counter()
        first, second = await submit_in_order(b, rows(0), rows(1))
        submitted = time.perf_counter()
        await asyncio.sleep(0.05)
        run.gate.set()
        (_, one), (_, two) = await asyncio.gather(first, second)
        after = time.perf_counter()
    assert before <= one.queued_at <= two.queued_at <= submitted
    assert one.started_at < submitted < one.ended_at  # the first run waited for the gate
    assert submitted + 0.04 < one.ended_at <= two.started_at <= two.ended_at <= after


async def test_times_of_a_split_request_span_all_its_runs() -> None:
    starts: list[float] = []

    def run(inputs: Tensors) -> Tensors:
        starts.append(time.perf_counter())
        time.sleep(0.01)
        return inputs

    b = Batcher(run, Limits(max_batch_rows=1))
    _, timings = await b.submit(rows(1, 2, 3))
    await b.close()
    assert len(starts) == 3
    assert timings.started_at <= starts[0]
    assert timings.ended_at >= starts[-1] + 0.01


async def test_requests_of_one_run_have_the_same_run_times() -> None:
    run = DoublingSession(blocked=True)
    async with batcher(run) as b:
        _, *sharing = await submit_in_order(b, rows(0), rows(1), rows(2))
        run.gate.set()
        (_, one), (_, two) = await asyncio.gather(*sharing)
    assert (one.started_at, one.ended_at) == (two.started_at, two.ended_at)
    assert one.queued_at < two.queued_at


async def test_full_queue_refuses_at_once_and_says_when_to_retry() -> None:
    run = DoublingSession(blocked=True)
    async with batcher(run, max_queue_rows=4) as b:
        tasks = await submit_in_order(b, rows(0), rows(1, 2, 3, 4))
        with pytest.raises(Unavailable) as refused:
            await b.submit(rows(5))
        assert 1 <= refused.value.retry_after_seconds <= 60
        run.gate.set()
        assert await outputs_of(*tasks) == [[0], [2, 4, 6, 8]]


async def test_retry_time_of_a_full_queue_follows_the_pace_of_the_last_runs() -> None:
    def slow(inputs: Tensors) -> Tensors:
        time.sleep(0.05)
        return inputs

    b = Batcher(slow, Limits(max_batch_rows=1, max_queue_rows=60))
    tasks = [asyncio.create_task(b.submit(rows(i))) for i in range(10)]
    await asyncio.gather(*tasks)
    waiting = await submit_in_order(b, rows(0), *(rows(*range(10)) for _ in range(6)))
    with pytest.raises(Unavailable) as refused:
        await b.submit(rows(1))
    assert 3 <= refused.value.retry_after_seconds <= 6  # 60 rows at 0.05 seconds each, or somewhat more
    for task in waiting[1:]:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await b.close()


async def test_cancelled_request_leaves_room_in_the_queue() -> None:
    run = DoublingSession(blocked=True)
    async with batcher(run, max_queue_rows=4) as b:
        first, cancelled = await submit_in_order(b, rows(0), rows(1, 2, 3, 4))
        cancelled.cancel()
        (later,) = await submit_in_order(b, rows(5))
        run.gate.set()
        assert await outputs_of(first, later) == [[0], [10]]
    assert run.rows == [1, 1]


@pytest.mark.parametrize("seconds", [0.05, 0, -1])
async def test_request_whose_deadline_passes_is_never_computed(seconds: float) -> None:
    run = DoublingSession(blocked=True)
    async with batcher(run) as b:
        (first,) = await submit_in_order(b, rows(0))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await b.submit(rows(1))
        run.gate.set()
        assert await outputs_of(first) == [[0]]
    assert run.rows == [1]


async def test_session_that_returns_too_few_rows_fails_only_that_request() -> None:
    def run(inputs: Tensors) -> Tensors:
        return {"y": inputs["x"][:1] if 13 in inputs["x"] else inputs["x"]}

    b = Batcher(run, Limits())
    with pytest.raises(ValueError, match="rows"):
        await b.submit(rows(13, 14))
    outputs, _ = await b.submit(rows(1, 2))
    assert outputs["y"][:, 0].tolist() == [1, 2]
    await b.close()


async def test_cancelled_request_is_not_computed_and_affects_no_other() -> None:
    run = DoublingSession(blocked=True)
    async with batcher(run) as b:
        first, cancelled, last = await submit_in_order(b, rows(0), rows(1), rows(2))
        cancelled.cancel()
        run.gate.set()
        assert await outputs_of(first, last) == [[0], [4]]
    assert [batch[:, 0].tolist() for batch in run.batches] == [[0], [2]]


async def test_request_cancelled_during_its_run_affects_no_other() -> None:
    run = DoublingSession(blocked=True)
    async with batcher(run) as b:
        tasks = await submit_in_order(b, rows(0), rows(1), rows(2))
        tasks[0].cancel()  # its run is under way
        run.gate.set()
        assert await outputs_of(*tasks[1:]) == [[2], [4]]
    assert run.rows == [1, 2]


@pytest.mark.parametrize("sequence", [None, "x"])
async def test_bad_row_of_a_split_request_fails_only_that_request(sequence: str | None) -> None:
    run = DoublingSession(fails=lambda inputs: 13 in inputs["x"], blocked=True)
    async with batcher(run, sequence, max_batch_rows=2) as b:
        requests = rows(1), rows(2, 3, 4), rows(5, 6, 13, 7, 8), rows(9, 10)
        first, good, bad, also_good = await submit_in_order(b, *requests)
        run.gate.set()
        assert await outputs_of(first, good, also_good) == [[2], [4, 6, 8], [18, 20]]
        with pytest.raises(ValueError, match="a bad row"):
            await bad


async def test_failed_run_fails_only_the_request_with_the_bad_row() -> None:
    run = DoublingSession(fails=lambda inputs: 13 in inputs["x"], blocked=True)
    async with batcher(run) as b:
        first, good, bad, also_good = await submit_in_order(b, rows(0), rows(1), rows(2, 13), rows(3))
        run.gate.set()
        assert await outputs_of(first, good, also_good) == [[0], [2], [6]]
        with pytest.raises(ValueError, match="a bad row"):
            await bad


async def test_batcher_continues_after_a_failure() -> None:
    run = DoublingSession(fails=lambda inputs: 13 in inputs["x"])
    async with batcher(run) as b:
        with pytest.raises(ValueError, match="a bad row"):
            await b.submit(rows(13))
        assert await outputs_of(asyncio.create_task(b.submit(rows(1)))) == [[2]]


class Totals(Observer):
    """Adds up what it observes."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.requests = self.failures = 0
        self._waiting: asyncio.Queue[int] = asyncio.Queue()
        self.seconds = self.waited = 0.0

    def waits(self, rows: int) -> None:
        self._waiting.put_nowait(rows)

    async def until_waiting(self, rows: int) -> None:
        async with asyncio.timeout(5):
            while await self._waiting.get() != rows:
                pass

    def ran(self, rows: int, times: StageSeconds) -> None:
        assert min(times) > 0
        self.rows.append(rows)

    def answered(self, seconds: float, waited: float) -> None:
        self.requests += 1
        self.seconds += seconds
        self.waited += waited

    def failed(self, seconds: float) -> None:
        assert seconds > 0
        self.failures += 1


async def test_observer_receives_every_run_and_every_request() -> None:
    run, totals = DoublingSession(fails=lambda inputs: bool((inputs["x"] == 13).any()), blocked=True), Totals()
    b = Batcher(run, Limits(max_batch_rows=4), observer=totals)
    tasks = await submit_in_order(b, rows(1), rows(2, 3, 4, 5, 6), rows(13), rows(7))
    await asyncio.sleep(0.05)
    run.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    await b.close()
    assert [isinstance(outcome, ValueError) for outcome in outcomes] == [False, False, True, False]
    assert sum(totals.rows) == 7
    assert (totals.requests, totals.failures) == (3, 1)
    assert 0.14 < totals.seconds < 5
    assert 0.09 < totals.waited < totals.seconds


async def test_observer_receives_the_queue_length_during_a_run() -> None:
    run, totals = DoublingSession(blocked=True), Totals()
    b = Batcher(run, Limits(), observer=totals)
    tasks = await submit_in_order(b, rows(0), rows(1), rows(2, 3))
    await totals.until_waiting(3)
    tasks += await submit_in_order(b, rows(4))
    await totals.until_waiting(4)
    run.gate.set()
    await outputs_of(*tasks)
    await totals.until_waiting(0)
    await b.close()


async def test_with_max_wait_requests_close_together_share_a_run() -> None:
    run = DoublingSession()
    async with batcher(run, max_wait_seconds=0.1) as b:
        first = asyncio.create_task(b.submit(rows(1)))
        await asyncio.sleep(0.01)
        assert await outputs_of(first, asyncio.create_task(b.submit(rows(2)))) == [[2], [4]]
    assert run.rows == [2]


async def test_with_max_wait_a_full_batch_does_not_wait() -> None:
    run = DoublingSession()
    async with batcher(run, max_wait_seconds=60, max_batch_rows=2) as b:
        assert await outputs_of(*(asyncio.create_task(b.submit(rows(i))) for i in range(2))) == [[0], [2]]
        first = asyncio.create_task(b.submit(rows(1)))
        await asyncio.sleep(0.01)
        assert await outputs_of(first, asyncio.create_task(b.submit(rows(2)))) == [[2], [4]]
    assert run.rows == [2, 2]


def sequences(*lengths: int) -> Tensors:
    """Return one row for each length, padded to the longest: a row of length n consists of n times n."""
    return {"x": np.array([[length] * length + [0] * (max(lengths) - length) for length in lengths])}


async def test_sequences_of_similar_length_share_a_run_and_are_padded_to_the_longest() -> None:
    run = DoublingSession(blocked=True)
    async with batcher(run, sequence="x") as b:
        tasks = await submit_in_order(b, sequences(1), *(sequences(n) for n in (100, 400, 110, 390, 105)))
        run.gate.set()
        results = await asyncio.gather(*tasks)
    assert [batch.shape for batch in run.batches] == [(1, 1), (3, 110), (2, 400)]
    assert [int(outputs["y"].max()) for outputs, _ in results] == [2, 200, 800, 220, 780, 210]


async def test_runs_of_sequences_have_a_limited_number_of_elements() -> None:
    run = DoublingSession(blocked=True)
    async with batcher(run, sequence="x") as b:
        tasks = await submit_in_order(b, sequences(1), *(sequences(RUN_ELEMENTS // 2) for _ in range(5)))
        run.gate.set()
        await asyncio.gather(*tasks)
    assert run.rows == [1, 2, 2, 1]


async def test_request_with_sequences_of_mixed_lengths_keeps_its_order() -> None:
    def run(inputs: Tensors) -> Tensors:
        return {"y": inputs["x"].sum(1, keepdims=True)}

    b = Batcher(run, Limits(), "x")
    lengths = (300, 3, 150, 290, 5)
    outputs, _ = await b.submit(sequences(*lengths))
    await b.close()
    assert outputs["y"][:, 0].tolist() == [n * n for n in lengths]


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), batch_rows=st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_every_request_gets_its_own_rows_however_they_are_batched(sizes: list[int], batch_rows: int) -> None:
    async def check() -> None:
        run = DoublingSession()
        async with batcher(run, max_batch_rows=batch_rows) as b:
            first = np.cumsum([0, *sizes])
            requests = [rows(*range(start, start + size)) for start, size in zip(first, sizes, strict=False)]
            found = await outputs_of(*(asyncio.create_task(b.submit(request)) for request in requests))
            assert found == [(2 * request["x"][:, 0]).tolist() for request in requests]
            assert max(run.rows) <= batch_rows

    asyncio.run(check())


def test_limits_are_those_of_the_settings() -> None:
    chosen = Settings(max_batch_rows=3, max_queue_rows=5, max_wait_seconds=0.5)
    assert Limits.from_settings(chosen) == Limits(max_batch_rows=3, max_queue_rows=5, max_wait_seconds=0.5)
    assert Limits.from_settings(Settings()) == Limits()
