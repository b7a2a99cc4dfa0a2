"""The BentoML service: one typed method per task, the models behind them, and the front door before them.

`python -m service` starts it.
"""

import asyncio
import gc
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import bentoml
import uvicorn.config
from _bentoml_impl.server import serve_http
from _bentoml_sdk import Service  # the class that `service_class=` extends; bentoml does not export it
from _bentoml_sdk.method import APIMethod
from bentoml import get_current_service  # bentoml itself looks it up anew at each access
from starlette.types import ASGIApp

from service.arrays import Tensors
from service.call import Call, current_call
from service.errors import Unavailable
from service.http.admission import Admission
from service.http.front_door import FrontDoor
from service.http.tasks import TaskEndpoint
from service.http.v2.routes import OpenInference
from service.predictors import Answer, Payload
from service.predictors.digits import DigitsPredictor
from service.predictors.fashion import FashionPredictor
from service.predictors.mammogram import MammogramPredictor
from service.predictors.sentiment import SentimentPredictor
from service.serving.binding import AnyPredictor
from service.serving.control import Control
from service.serving.models import ServedModels, ServedVersion
from service.serving.readiness import Readiness
from service.serving.shadow import Shadow
from service.serving.workers import Workers, shared_folder
from service.settings import settings
from service.telemetry import logs, metrics, traces

SETTINGS = settings()
FOLDER = shared_folder()  # asked for here, where the supervisor of the workers comes by before it starts them

DECODERS = 2
"""Threads for requests that are slow to decode: a few large pictures at once are all that memory should hold."""
MOST_DECODING = 64
"""Such requests at once, those that wait for a thread included."""

for noisy in ("PIL", "python_multipart"):  # a broken request is the client's to know, in its answer
    logging.getLogger(noisy).setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="PIL")

T = TypeVar("T")


def endpoint(predictor: type[AnyPredictor]) -> APIMethod[..., Any]:
    """The typed BentoML method of a task: the line in `DeepServe` that registers it."""

    async def predict(self: "DeepServe", request: Payload, /) -> Answer:
        return await self.predict(predictor.name, request)

    predict.__name__ = predictor.name
    predict.__doc__ = predictor.__doc__
    predict.__annotations__ = {"request": predictor.Request, "return": predictor.Answer}
    method: APIMethod[..., Any] = bentoml.api(route=f"/v1/{predictor.name}")(predict)
    PREDICTORS[predictor.name] = predictor
    return method


PREDICTORS: dict[str, type[AnyPredictor]] = {}
"""By name, every task that `DeepServe` registers."""


class FrontedService(Service["DeepServe"]):  # type: ignore[misc]  # bentoml is not typed for users
    """A BentoML service whose task endpoints are served by the front door instead of BentoML's own HTTP stack."""

    def serve(self) -> None:
        """Serves until told to stop: `serve_http`, but for the log, which that would set up once more."""
        self.inject_config()
        serve_http(self, host=SETTINGS.host, port=SETTINGS.port)

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """BentoML's app, which starts and stops `DeepServe`, behind the front door."""
        # BentoML starts uvicorn and leaves the choice of its protocol class to this table.
        logs.set_up(SETTINGS.log_level, SETTINGS.log_format)
        uvicorn.config.HTTP_PROTOCOLS["auto"] = "service.http.connection:Connection"
        tasks = [TaskEndpoint(api.route, PREDICTORS[name], _instance, SETTINGS) for name, api in self.apis.items()]
        tensors = OpenInference(_instance, SETTINGS)
        tracing = traces.Tracing() if traces.check(os.environ) else None
        admission = Admission(SETTINGS, FOLDER)
        return FrontDoor(super().to_asgi(is_main), tasks, tensors, _instance, admission, SETTINGS, tracing)


def _instance() -> "DeepServe":
    """The service of this worker, once BentoML has started it."""
    instance: DeepServe = get_current_service()
    return instance


@bentoml.service(
    name="deepserve",
    service_class=FrontedService,
    workers=SETTINGS.workers,
    # The front door has its own of each of these.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class DeepServe:
    """Four classic neural networks: digits, sentiment, mammogram masses, and clothing that never was."""

    digits = endpoint(DigitsPredictor)
    sentiment = endpoint(SentimentPredictor)
    mammogram = endpoint(MammogramPredictor)
    fashion = endpoint(FashionPredictor)

    def __init__(self) -> None:
        """Loads, verifies and warms every model."""
        metrics.share(FOLDER)
        self.models = ServedModels(SETTINGS, PREDICTORS)
        workers = Workers(FOLDER)
        self.readiness = Readiness(workers, SETTINGS.workers)
        self.control = Control(self.models, workers, SETTINGS.watch)
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._decoding = 0
        self.shadows: Mapping[str, Shadow] = {
            name: Shadow(name, diversion, self.models, self._decode, self._is_idle)
            for name, diversion in SETTINGS.shadow.items()
        }
        gc.set_threshold(10_000, 10, 10)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def follow(self) -> None:
        """Begins to make the changes that other workers ask for."""
        self._following = asyncio.create_task(self.control.follow())

    async def predict(self, name: str, request: Payload) -> Answer:
        """Answers a request for the task `name` that has not come by the front door.

        Raises:
            ServiceError: the request or its version is not valid, or there is no time or room to answer it.
        """
        return await self.answer(self.find(name, current_call.get()), request)

    async def answer(self, served: ServedVersion, request: Payload) -> Answer:
        """What a version answers to a request for its task: decode, run with others, describe.

        Raises:
            ServiceError: the request is not valid, or there is no time or room to answer it.
        """
        call = current_call.get()
        inputs, facts = await self._decode(served, request)
        call.decoded = time.perf_counter()
        if not served.predictor.is_repeatable(request):
            outputs = await served.batcher.submit(inputs)
        else:
            outputs = await served.answers.submit(inputs)
            if (shadow := self.shadows.get(served.version.name)) is not None:
                shadow.offer(call.request_id, request, served, outputs)
        call.computed = time.perf_counter()
        answer: Answer = served.predictor.describe(outputs, facts)
        return answer

    def find(self, name: str, call: Call) -> ServedVersion:
        """The version of a model that answers a call, which then says so.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: it is not ready.
        """
        served = self.models.find(name, call.version, call.request_id)
        call.model, call.number = name, served.version.version
        return served

    async def _decode(self, served: ServedVersion, request: Payload) -> tuple[Tensors, Any]:
        """What a version makes of a request: its inputs, and what describing the answer takes."""
        if served.predictor.is_slow_to_decode(request):
            return await self.apart(partial(served.predictor.decode, request))
        decoded: tuple[Tensors, Any] = served.predictor.decode(request)
        return decoded

    def _is_idle(self) -> bool:
        """Whether nothing is read, nothing waits and nothing runs."""
        return not self._decoding and self.models.idle

    async def apart(self, work: Callable[[], T]) -> T:
        """What `work`, the reading of a large request say, returns, done in a thread.

        Raises:
            Unavailable: too much such work is under way.
        """
        if self._decoding >= MOST_DECODING:
            raise Unavailable("Too many large requests are being read.")
        self._decoding += 1
        pending = [work]
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, lambda: pending.pop()())
        finally:
            pending.clear()  # one who leaves before a thread is free takes the request along
            self._decoding -= 1

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def close(self) -> None:
        """Lets the requests under way finish."""
        self._following.cancel()
        await asyncio.gather(*(shadow.close() for shadow in self.shadows.values()))
        self.control.close()
        await self.models.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)
