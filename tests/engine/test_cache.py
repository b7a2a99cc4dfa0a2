"""What a model with a cache promises: the answers of one without, and no more memory than it may take."""

import asyncio
import threading
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.batcher import Batcher, Limits
from service.engine.cache import ARRAY_BYTES, ENTRY_BYTES, Cache, CachedBatcher
from service.errors import Unavailable
from service.tensors import Tensors

pytestmark = pytest.mark.anyio

ROOMY = 10**6


class Counts:
    """What a cache and its batchers tell, added up."""

    def __init__(self) -> None:
        self.bytes = self.evictions = self.hits = self.misses = 0
        self.seconds = 0.0

    def holds(self, size: int) -> None:
        self.bytes = size

    def evicted(self, answers: int) -> None:
        self.evictions += answers

    def hit(self, seconds: float) -> None:
        self.hits += 1
        self.seconds += seconds

    def missed(self) -> None:
        self.misses += 1

    def kept(self, seconds: float) -> None:
        self.seconds += seconds


class Model:
    """Multiplies by `factor`, behind a batcher and a cache; counts its runs, and can be held up."""

    def __init__(self, cache: Cache, counts: Counts, factor: int = 2, queue_rows: int = 1024) -> None:
        self.factor = factor
        self.runs = 0
        self.gate = threading.Event()
        self.gate.set()
        self.batcher = Batcher(self._run, Limits(queue_rows=queue_rows))
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
def test_it_never_holds_more_than_it_may(most: int, steps: Sequence[tuple[bool, int, int]]) -> None:
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


def test_what_it_says_to_hold_is_what_it_takes() -> None:
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


def test_those_least_recently_used_leave_first() -> None:
    counts = Counts()
    cache = Cache(3 * (ENTRY_BYTES + ARRAY_BYTES + 8), counts)
    for key in (b"a", b"b", b"c"):
        cache.put(key, outputs(8))
    cache.get(b"a")
    cache.put(b"d", outputs(8))
    assert [key for key in (b"a", b"b", b"c", b"d") if cache.get(key) is not None] == [b"a", b"c", b"d"]
    assert counts.evictions == 1


def test_an_answer_that_does_not_fit_leaves_the_others_where_they_are() -> None:
    cache = Cache(ENTRY_BYTES + ARRAY_BYTES + 8)
    cache.put(b"a", outputs(8))
    cache.put(b"b", outputs(9))
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None


def test_an_answer_is_kept_apart_from_the_run_that_gave_it() -> None:
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
def test_answers_are_those_without_a_cache(most: int, requests: Sequence[tuple[int, int, int]]) -> None:
    async def ask() -> None:
        counts = Counts()
        cache = Cache(most, counts)
        models = {factor: Model(cache, counts, factor) for factor in (2, 3)}
        for first, rows, factor in requests:
            inputs = {"x": np.arange(first, first + rows, dtype=np.float32)[:, None]}
            found, computed = await models[factor].cached.submit(inputs), await models[factor].batcher.submit(inputs)
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


async def test_the_same_asked_again_needs_no_run() -> None:
    counts = Counts()
    model = Model(Cache(ROOMY, counts), counts)
    first, again = await model.cached.submit(row(1, 2)), await model.cached.submit(row(1, 2))
    assert first["x out"].tolist() == again["x out"].tolist() == [[2, 4]]
    assert (model.runs, counts.hits, counts.misses) == (1, 1, 1)
    assert counts.seconds > 0


async def test_inputs_of_the_same_bytes_but_another_shape_or_dtype_are_not_the_same() -> None:
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


async def test_neither_the_order_of_inputs_nor_how_they_lie_in_memory_matters() -> None:
    counts = Counts()
    model = Model(Cache(ROOMY, counts), counts)
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    await model.cached.submit({"x": values.T, "z": values.T})
    await model.cached.submit({"z": values.T.copy(), "x": values.T.copy()})
    assert counts.hits == 1


async def test_a_version_never_answers_for_another() -> None:
    counts = Counts()
    cache = Cache(ROOMY, counts)
    double, triple = Model(cache, counts, 2), Model(cache, counts, 3)
    assert (await double.cached.submit(row(1)))["x out"].tolist() == [[2]]
    assert (await triple.cached.submit(row(1)))["x out"].tolist() == [[3]]


async def test_a_full_queue_turns_away_only_what_has_no_answer_yet() -> None:
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
    assert (await model.cached.submit(row(1)))["x out"].tolist() == [[2]]
    with pytest.raises(Unavailable):
        await model.cached.submit(row(4))
    model.gate.set()
    assert [(await each)["x out"].tolist() for each in waiting] == [[[4]], [[6]]]


async def test_who_leaves_does_not_take_the_answer_of_others_along() -> None:
    counts = Counts()
    model = Model(Cache(ROOMY, counts), counts)
    model.gate.clear()
    leaves, stays = (asyncio.create_task(model.cached.submit(row(1))) for _ in range(2))
    await asyncio.sleep(0.01)
    leaves.cancel()
    model.gate.set()
    assert (await stays)["x out"].tolist() == [[2]]
    assert (await model.cached.submit(row(1)))["x out"].tolist() == [[2]]
    assert counts.hits == 1
