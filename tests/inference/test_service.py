"""The inference service: the order of its steps, errors, deadlines, the canary, the cache, the shadow and drift."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from service.context import Deadline, RequestContext
from service.errors import DeadlineExceeded, Invalid, NotFound, Unavailable
from service.inference.binding import bind
from service.inference.request import Request, TaskRequest, TensorRequest
from service.inference.service import MAX_SLOW_REQUESTS, Inference, InferenceService, Read
from service.observability.exposition import TEXT, exposition
from service.observability.series import flush
from service.registry.registry import ModelRegistry
from service.registry.versions import LoadedVersion
from service.settings import Settings
from service.tasks import base
from service.tasks.digits import DigitsRequest
from service.tasks.fashion import FashionRequest
from service.tensors import Tensors
from service.traffic_split import TrafficSplit
from tests.paths import DIFFICULT_DIGITS, MODELS

pytestmark = pytest.mark.anyio

BLANK = {"pictures": np.zeros((1, 28, 28), np.uint8)}
MANY = {"pictures": np.zeros((4000, 28, 28), np.uint8)}
"""Rows that take a while."""
PICTURES = DigitsRequest.model_construct(images=[path.read_bytes() for path in DIFFICULT_DIGITS])
"""Each picture has several candidate crops, of which one answers."""
LABELS = [int(path.stem[-1]) for path in DIFFICULT_DIGITS]


def reads(content: base.Request | dict[str, Any], state: object = None, timeout_seconds: float = math.inf) -> Read:
    async def read(_loaded: LoadedVersion) -> Request:
        if isinstance(content, base.Request):
            return TaskRequest(content, time.perf_counter())
        return TensorRequest(content, time.perf_counter(), state, timeout_seconds)

    return read


async def never_reads(_loaded: LoadedVersion) -> Request:
    raise AssertionError("the body must not be read")


@asynccontextmanager
async def service(**settings: Any) -> AsyncIterator[InferenceService]:
    chosen = Settings(models_dir=MODELS, **settings)
    models = ModelRegistry(chosen, bind)
    for name, versions in (("digits", ["1", "2"]), ("fashion", ["1"])):
        assert not models.load(name, versions, None)
    made = InferenceService(models, chosen.shadow)
    yield made
    await made.close()
    await models.close()


@asynccontextmanager
async def under_load(made: InferenceService) -> AsyncIterator[None]:
    """Occupy version 2 of digits and its queue."""
    task = asyncio.create_task(made.infer("digits", "2", reads(MANY), RequestContext()))
    await asyncio.sleep(0.001)  # its first run is under way
    yield
    task.cancel()
    await asyncio.wait([task])


def digits_of(inference: Inference) -> list[int]:
    return [int(row.argmax()) for row in inference.outputs["probabilities"]]


async def test_request_to_a_task_is_preprocessed_run_and_reduced_to_one_row_per_item() -> None:
    async with service() as made:
        inference = await made.infer("digits", None, reads(PICTURES), RequestContext())
    assert digits_of(inference) == LABELS
    assert len(inference.inputs["pictures"]) == len(LABELS)
    response = inference.loaded.task.postprocess(inference.outputs, inference.state)
    assert [prediction.digit for prediction in response.predictions] == LABELS


async def test_graph_inputs_are_run_as_they_are_and_keep_the_state_of_their_reader() -> None:
    async with service() as made:
        inference = await made.infer("digits", "1", reads(BLANK, state="mine"), RequestContext())
    assert inference.inputs is BLANK
    assert inference.outputs["probabilities"].shape == (1, 10)
    assert (inference.loaded.number, inference.state) == ("1", "mine")


async def test_steps_happen_in_order_and_their_times_are_returned() -> None:
    steps: list[str] = []

    async def read(loaded: LoadedVersion) -> Request:
        steps.append(f"read for {loaded.number}")
        await asyncio.sleep(0.01)
        return TaskRequest(PICTURES, time.perf_counter())

    async with service() as made:
        context = RequestContext(started=time.perf_counter())
        timings = (await made.infer("digits", None, read, context)).timings
    assert steps == ["read for 2"]
    stages = [timings.received, timings.preprocessed, timings.queued, timings.started, timings.ended, timings.computed]
    assert stages == sorted(stages)
    assert context.started + 0.01 <= timings.received
    assert timings.preprocessed - timings.received > 0.001  # photographs take milliseconds
    assert timings.encoded == 0
    assert context.timings is None  # only the protocol sets it


@pytest.mark.parametrize(("model", "version"), [("nothing", None), ("digits", "7")])
async def test_unknown_model_or_version_is_an_error_before_the_body_is_read(model: str, version: str | None) -> None:
    async with service() as made:
        context = RequestContext()
        with pytest.raises(NotFound):
            await made.infer(model, version, never_reads, context)
    assert context.model == ""


async def test_full_queue_refuses_before_the_body_is_read_and_names_the_version() -> None:
    async with service(max_queue_rows=1) as made, under_load(made):
        context = RequestContext()
        with pytest.raises(Unavailable):
            await made.infer("digits", None, never_reads, context)
        assert (context.model, context.served_version) == ("digits", "2")


async def test_errors_of_the_reader_and_of_preprocessing_reach_the_caller() -> None:
    async def read(_loaded: LoadedVersion) -> Request:
        raise Invalid("not valid")

    no_picture = DigitsRequest.model_construct(images=[b"no picture"])
    async with service() as made:
        for reader in (read, reads(no_picture)):
            context = RequestContext()
            with pytest.raises(Invalid):
                await made.infer("digits", None, reader, context)
            assert (context.model, context.served_version) == ("digits", "2")


async def test_deadline_of_the_protocol_ends_a_request_that_waits() -> None:
    async with service(max_queue_rows=10_000) as made, under_load(made):
        with pytest.raises(DeadlineExceeded), Deadline(time.perf_counter() + 0.02):
            await made.infer("digits", "2", reads(BLANK), RequestContext())


async def test_timeout_in_the_body_ends_a_request_that_waits() -> None:
    async with service(max_queue_rows=10_000) as made, under_load(made):
        context = RequestContext(started=time.perf_counter())
        with pytest.raises(DeadlineExceeded):
            await made.infer("digits", "2", reads(BLANK, timeout_seconds=0.02), context)


async def test_request_whose_timeout_has_passed_is_never_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with service() as made:
        loaded = (await made.infer("digits", "2", reads(BLANK), RequestContext())).loaded
        monkeypatch.setattr(loaded.batcher, "submit", never_reads)
        context = RequestContext(started=time.perf_counter() - 1)
        with pytest.raises(DeadlineExceeded):
            await made.infer("digits", "2", reads(BLANK, timeout_seconds=0.5), context)


@pytest.mark.parametrize(("share", "version"), [(0, "2"), (1, "1")])
async def test_canary_serves_its_share_of_the_requests_without_a_version(share: float, version: str) -> None:
    async with service(canary={"digits": TrafficSplit(version="1", share=share)}) as made:
        context = RequestContext(request_id="an id")
        assert (await made.infer("digits", None, reads(BLANK), context)).loaded.number == version
        assert context.served_version == version
        assert (await made.infer("digits", "2", reads(BLANK), RequestContext())).loaded.number == "2"


async def test_canary_serves_the_same_version_for_the_same_request_id() -> None:
    async with service(canary={"digits": TrafficSplit(version="1", share=0.5)}) as made:
        served = [
            (await made.infer("digits", None, reads(BLANK), RequestContext(request_id=str(number % 20)))).loaded.number
            for number in range(40)
        ]
    assert served[:20] == served[20:]
    assert {*served} == {"1", "2"}


async def test_repeated_request_is_served_from_the_cache_even_if_the_queue_is_full() -> None:
    async with service(cache_bytes={"digits": 1_000_000}, max_queue_rows=1) as made:
        computed = await made.infer("digits", None, reads(PICTURES), RequestContext())
        async with under_load(made):
            cached = await made.infer("digits", None, reads(PICTURES), RequestContext())
    assert digits_of(cached) == digits_of(computed) == LABELS
    assert cached.timings.queued == cached.timings.started == cached.timings.ended == 0
    assert computed.timings.queued > 0
    assert 0 < cached.timings.preprocessed <= cached.timings.computed


@pytest.mark.parametrize(("request_", "is_cached"), [({}, False), ({"seed": 1}, True)])
async def test_request_that_draws_at_random_is_not_cached(request_: dict[str, int], is_cached: bool) -> None:
    async with service(cache_bytes={"fashion": 1_000_000}) as made:
        content = FashionRequest.model_validate(request_)
        await made.infer("fashion", None, reads(content), RequestContext())
        again = await made.infer("fashion", None, reads(content), RequestContext())
    assert (again.timings.queued == 0) == is_cached


async def test_run_in_thread_returns_and_raises_what_the_work_does() -> None:
    def fail() -> None:
        raise KeyError

    async with service() as made:
        assert await made.run_in_thread(lambda: 7) == 7
        with pytest.raises(KeyError):
            await made.run_in_thread(fail)


async def test_slow_work_is_bounded_and_cancelled_work_makes_room() -> None:
    async with service() as made:
        tasks = [asyncio.create_task(made.run_in_thread(lambda: time.sleep(0.2))) for _ in range(MAX_SLOW_REQUESTS)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await made.run_in_thread(int)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert await made.run_in_thread(int) == 0


def shadow_rows() -> float:
    flush()
    lines = exposition(TEXT)[0].decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("deepserve_shadow_rows_total{"))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # metrics set no event
            await asyncio.sleep(0.01)


async def test_drift_monitor_and_shadow_see_one_row_per_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed and cached requests alike, and the shadow is not seen by the drift monitor of its version."""
    seen: list[tuple[Tensors, Tensors]] = []
    split = TrafficSplit(version="1", share=1)
    async with service(cache_bytes={"digits": 1_000_000}, shadow={"digits": split}) as made:
        for version in ("1", "2"):
            loaded = (await made.infer("digits", version, reads(BLANK), RequestContext())).loaded
            monkeypatch.setattr(loaded.drift, "observe", lambda inputs, outputs: seen.append((inputs, outputs)))
        before = shadow_rows()
        for _ in range(2):
            await made.infer("digits", None, reads(PICTURES), RequestContext(request_id="one"))
            inputs, outputs = seen.pop()
            assert len(inputs["pictures"]) == len(outputs["probabilities"]) == len(LABELS)
            assert outputs["probabilities"].argmax(1).tolist() == LABELS
            alone, _ = await loaded.batcher.submit(inputs)
            assert np.array_equal(alone["probabilities"], outputs["probabilities"])
        await until(lambda: shadow_rows() >= before + 2 * len(LABELS))
    assert shadow_rows() <= before + 2 * len(LABELS) + 1  # the request to version 2 above may be counted late
    assert seen == []


async def test_shadow_gets_no_request_that_draws_at_random() -> None:
    async with service(shadow={"fashion": TrafficSplit(version="9", share=1)}) as made:
        before = shadow_rows()
        await made.infer("fashion", None, reads(FashionRequest(count=3)), RequestContext(request_id="one"))
        await made.infer("fashion", None, reads(FashionRequest(count=2, seed=1)), RequestContext(request_id="two"))
        await until(lambda: shadow_rows() > before)
    assert shadow_rows() == before + 2
