"""The cache: the same outputs as without it, and no more memory than configured."""

import asyncio
import threading
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.batcher import Batcher
from service.engine.cache import ARRAY_BYTES, ENTRY_BYTES, Cache, CachedBatcher
from service.engine.queue import Limits
from service.errors import Unavailable
from service.observability.observer import Observer
from service.tensors import Tensors

pytestmark = pytest.mark.anyio

ROOMY = 10**6


class Counts(Observer):
    """Adds up the events of a cache and its batchers."""

    def __init__(self) -> None:
        self.bytes = self.evictions = self.hits = self.misses = 0
        self.seconds = 0.0

    def holds(self, size: int) -> None:
        self.bytes = size

    def evicted(self, entries: int) -> None:
        self.evictions += entries

    def hit(self, seconds: float) -> None:
        self.hits += 1
        self.seconds += seconds

    def missed(self) -> None:
        self.misses += 1

    def kept(self, seconds: float) -> None:
        self.seconds += seconds


class Model:
    """Multiplies by `factor`, behind a batcher and a cache; counts its runs, and can be blocked."""

    def __init__(self, cache: Cache, counts: Counts, factor: int = 2, queue_rows: int = 1024) -> None:
        self.factor = factor
        self.runs = 0
        self.gate = threading.Event()
        self.gate.set()
        self.batcher = Batcher(self._run, Limits(max_queue_rows=queue_rows))
        self.cached = CachedBatcher(self.batcher, cache, str(factor).encode(), counts)

    def _run(self, inputs: Tensors) -> Tensors:
        assert self.gate.wait(5)
        self.runs += 1
        return {f"{name} out": values * self.factor for name, values in inputs.items()}


def row(*values: float, dtype: str = "f4") -> Tensors:
    return {"x": np.array([values], dtype)}


def outputs(size: int) -> Tensors:
    return {"y": np.zeros(size, np.uint8)}


@given(
    most=st.integers(0, 5000),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 3000)), max_size=40),
)
def test_cache_never_exceeds_its_size(most: int, steps: Sequence[tuple[bool, int, int]]) -> None:
    counts = Counts()
    cache = Cache(most, counts)
    for puts, number, size in steps:
        key = bytes([number])
        if puts:
            cache.put(key, outputs(size))
            if ENTRY_BYTES + ARRAY_BYTES + size <= most:
                found = cache.get(key)
                assert found is not None
                assert found["y"].nbytes == size
        else:
            cache.get(key)
        kept = [each for other in range(10) if (each := cache.get(bytes([other]))) is not None]
        assert cache.bytes == sum(ENTRY_BYTES + ARRAY_BYTES + each["y"].nbytes for each in kept) <= most
        assert counts.bytes == cache.bytes


def test_reported_size_is_close_to_the_memory_taken() -> None:
    answers = 2000
    tracemalloc.start()
    try:
        cache = Cache(ROOMY * 10)
        for number in range(answers):
            cache.put(number.to_bytes(32), {"y": np.zeros((1, 10), np.float32)})
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken <= cache.bytes <= 1.5 * taken


def test_least_recently_used_entries_are_evicted_first() -> None:
    counts = Counts()
    cache = Cache(3 * (ENTRY_BYTES + ARRAY_BYTES + 8), counts)
    for key in (b"a", b"b", b"c"):
        cache.put(key, outputs(8))
    cache.get(b"a")
    cache.put(b"d", outputs(8))
    assert [key for key in (b"a", b"b", b"c", b"d") if cache.get(key) is not None] == [b"a", b"c", b"d"]
    assert counts.evictions == 1


def test_entry_larger_than_the_cache_evicts_nothing() -> None:
    cache = Cache(ENTRY_BYTES + ARRAY_BYTES + 8)
    cache.put(b"a", outputs(8))
    cache.put(b"b", outputs(9))
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None


def test_entry_is_a_read_only_copy_without_the_rest_of_its_batch() -> None:
    cache = Cache(ROOMY)
    batch = np.zeros((64, 10), np.float32)
    cache.put(b"a", {"y": batch[3:4]})
    batch += 1
    kept = cache.get(b"a")
    assert kept is not None
    assert kept["y"].base is None
    assert kept["y"].tolist() == [[0] * 10]
    with pytest.raises(ValueError, match="read-only"):
        kept["y"][0] = 1


@given(
    most=st.sampled_from([0, ENTRY_BYTES + ARRAY_BYTES + 16, 3000, ROOMY]),
    requests=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.sampled_from([2, 3])), max_size=30),
)
def test_outputs_are_the_same_as_without_a_cache(most: int, requests: Sequence[tuple[int, int, int]]) -> None:
    async def ask() -> None:
        counts = Counts()
        cache = Cache(most, counts)
        models = {factor: Model(cache, counts, factor) for factor in (2, 3)}
        for first, rows, factor in requests:
            inputs = {"x": np.arange(first, first + rows, dtype=np.float32)[:, None]}
            (found, _), (computed, _) = [
                await each.submit(inputs) for each in (models[factor].cached, models[factor].batcher)
            ]
            assert found.keys() == computed.keys()
            for name, values in computed.items():
                assert found[name].dtype == values.dtype
                assert found[name].tobytes() == values.tobytes()
        assert counts.hits + counts.misses == len(requests)
        if most == ROOMY:
            assert counts.misses == len(set(requests))
        for model in models.values():
            await model.batcher.close()

    asyncio.run(ask())


async def test_repeated_request_needs_no_run_and_has_no_run_times() -> None:
    counts = Counts()
    model = Model(Cache(ROOMY, counts), counts)
    first, timings = await model.cached.submit(row(1, 2))
    again, no_timings = await model.cached.submit(row(1, 2))
    assert timings is not None
    assert 0 < timings.queued_at <= timings.started_at <= timings.ended_at
    assert no_timings is None
    assert first["x out"].tolist() == again["x out"].tolist() == [[2, 4]]
    assert (model.runs, counts.hits, counts.misses) == (1, 1, 1)
    assert counts.seconds > 0


async def test_inputs_of_equal_bytes_but_different_shape_dtype_or_name_are_different() -> None:
    counts = Counts()
    model = Model(Cache(ROOMY, counts), counts)
    same = [
        row(0, 0),
        {"x": np.zeros((2, 1), np.float32)},
        row(0, 0, dtype="i4"),
        row(0, dtype="i8"),
        {"z": np.zeros((1, 2), np.float32)},
        {"x": np.zeros((1, 1), np.float32), "z": np.zeros((1, 1), np.float32)},
    ]
    for inputs in same:
        await model.cached.submit(inputs)
    assert counts.hits == 0


async def test_order_and_memory_layout_of_the_inputs_do_not_matter() -> None:
    counts = Counts()
    model = Model(Cache(ROOMY, counts), counts)
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    await model.cached.submit({"x": values.T, "z": values.T})
    await model.cached.submit({"z": values.T.copy(), "x": values.T.copy()})
    assert counts.hits == 1


async def test_versions_do_not_share_entries() -> None:
    counts = Counts()
    cache = Cache(ROOMY, counts)
    double, triple = Model(cache, counts, 2), Model(cache, counts, 3)
    assert [(await each.cached.submit(row(1)))[0]["x out"].tolist() for each in (double, triple)] == [[[2]], [[3]]]


async def test_full_queue_refuses_only_requests_that_are_not_cached() -> None:
    counts = Counts()
    cache = Cache(ROOMY, counts)
    await Model(cache, counts).cached.submit(row(1))
    model = Model(cache, counts, queue_rows=1)
    model.gate.clear()
    waiting = []
    for value in (2, 3):  # one in the run, one in the queue
        waiting.append(asyncio.create_task(model.cached.submit(row(value))))
        await asyncio.sleep(0.01)
    model.cached.check_room()
    assert (await model.cached.submit(row(1)))[0]["x out"].tolist() == [[2]]
    with pytest.raises(Unavailable):
        await model.cached.submit(row(4))
    model.gate.set()
    assert [(await each)[0]["x out"].tolist() for each in waiting] == [[[4]], [[6]]]


async def test_cancelled_request_does_not_affect_an_equal_one() -> None:
    counts = Counts()
    model = Model(Cache(ROOMY, counts), counts)
    model.gate.clear()
    cancelled, other = (asyncio.create_task(model.cached.submit(row(1))) for _ in range(2))
    await asyncio.sleep(0.01)
    cancelled.cancel()
    model.gate.set()
    assert (await other)[0]["x out"].tolist() == [[2]]
    assert (await model.cached.submit(row(1)))[0]["x out"].tolist() == [[2]]
    assert counts.hits == 1
