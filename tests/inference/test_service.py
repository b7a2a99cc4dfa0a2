"""Whoever watches the answers sees the rows that answer a request, not those that were tried beside them."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from service.context import RequestContext
from service.inference.service import InferenceService
from service.observability.exposition import TEXT, exposition
from service.observability.series import flush
from service.registry.registry import ModelRegistry
from service.settings import Settings
from service.tasks.digits import DigitsRequest, DigitsTask
from service.tensors import Tensors
from service.traffic_split import TrafficSplit
from tests.places import DIFFICULT_DIGITS, MODELS

pytestmark = pytest.mark.anyio

REQUEST = DigitsRequest.model_construct(images=[path.read_bytes() for path in DIFFICULT_DIGITS])
LABELS = [int(path.stem[-1]) for path in DIFFICULT_DIGITS]


@pytest.fixture
async def answering() -> AsyncIterator[InferenceService]:
    settings = Settings(
        models_dir=MODELS, cache_bytes={"digits": 1_000_000}, shadow={"digits": TrafficSplit(version="1", share=1)}
    )
    models = ModelRegistry(settings, {"digits": DigitsTask})
    assert not models.load("digits", ["1", "2"], None)
    made = InferenceService(models, settings.shadow)
    yield made
    await made.close()
    await models.close()


def shadow_rows() -> float:
    flush()
    lines = exposition(TEXT)[0].decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("deepserve_shadow_rows_total{"))


async def test_one_prediction_and_one_watched_row_for_each_picture(
    answering: InferenceService, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensors, Tensors]] = []
    call = RequestContext(request_id="one")
    served = answering.find("digits", call)
    monkeypatch.setattr(served.drift, "observe", lambda inputs, outputs: seen.append((inputs, outputs)))
    before = shadow_rows()
    for _ in range(2):  # computed, then from the cache
        answer = await answering.answer(served, REQUEST, call)
        assert [prediction.digit for prediction in answer.predictions] == LABELS
        inputs, outputs = seen.pop()
        assert len(inputs["pictures"]) == len(outputs["probabilities"]) == len(LABELS)
        assert outputs["probabilities"].argmax(1).tolist() == LABELS
        alone = await served.batcher.submit(inputs)
        assert np.array_equal(alone["probabilities"], outputs["probabilities"])
    async with asyncio.timeout(20):
        while shadow_rows() < before + 2 * len(LABELS):  # noqa: ASYNC110  # metrics set no event
            await asyncio.sleep(0.01)
    assert shadow_rows() == before + 2 * len(LABELS)
