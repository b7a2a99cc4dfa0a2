"""The BentoML service: one typed method per task, the models behind them, and the front door before them.

A worker imports and serves it.
"""

import asyncio
import gc
import logging
import os
import warnings
from functools import partial
from typing import Any

import bentoml
import uvicorn.config
from _bentoml_sdk import Service  # the class that `service_class=` extends; bentoml does not export it
from _bentoml_sdk.method import APIMethod
from bentoml import get_current_service  # bentoml itself looks it up anew at each access
from starlette.types import ASGIApp

from service.api.app import Api
from service.api.auth import Admission
from service.api.draining import DRAIN
from service.api.messages import SINGLE_HEADERS
from service.api.refusals import overloaded, refuse
from service.api.tasks import TaskEndpoint
from service.api.v2.routes import OpenInference
from service.context import current_call
from service.inference.service import InferenceService
from service.observability import exposition
from service.observability import logging as logs
from service.observability import tracing as traces
from service.observability.tracing import Tracing
from service.processes.folder import shared_folder
from service.processes.worker import end_with_supervisor, tell_started
from service.registry.binding import AnyTask
from service.registry.readiness import Readiness
from service.registry.reconciler import Reconciler
from service.registry.registry import ModelRegistry
from service.registry.workers import Workers
from service.settings import settings
from service.tasks.base import Answer, Payload
from service.tasks.digits import DigitsTask
from service.tasks.fashion import FashionTask
from service.tasks.mammogram import MammogramTask
from service.tasks.sentiment import SentimentTask
from service.tls import following_context
from service.transport.connection import Connection
from service.transport.options import Budget, Options

SETTINGS = settings()
FOLDER = shared_folder()  # made on import if `bentoml serve` supervises: it comes by here before it starts workers

for noisy in ("PIL", "python_multipart"):  # a broken request is the client's to know, in its answer
    logging.getLogger(noisy).setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="PIL")


TASKS: dict[str, type[AnyTask]] = {}
"""By name, every task that `DeepServe` registers; `endpoint` enters it."""


def endpoint(predictor: type[AnyTask]) -> APIMethod[..., Any]:
    """The typed BentoML method of a task: the line in `DeepServe` that registers it."""

    async def predict(self: "DeepServe", request: Payload, /) -> Answer:
        return await self.predict(predictor.name, request)

    predict.__name__ = predictor.name
    predict.__doc__ = predictor.__doc__
    predict.__annotations__ = {"request": predictor.Request, "return": predictor.Answer}
    method: APIMethod[..., Any] = bentoml.api(route=f"/v1/{predictor.name}")(predict)
    TASKS[predictor.name] = predictor
    return method


class FrontedService(Service["DeepServe"]):  # type: ignore[misc]  # bentoml is not typed for users
    """A BentoML service whose task endpoints are served by the front door instead of BentoML's own HTTP stack."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """BentoML's app, which starts and stops `DeepServe`, behind the front door."""
        end_with_supervisor()  # in a worker that `bentoml serve` has started
        exposition.share(FOLDER, SETTINGS.workers)
        logs.set_up(SETTINGS.log_level, SETTINGS.log_format)
        # BentoML starts uvicorn and leaves the choice of its protocol class to this table.
        protocols: dict[str, Any] = uvicorn.config.HTTP_PROTOCOLS
        protocols["auto"] = partial(Connection, _transport_options())
        # Likewise for TLS: uvicorn's own context has BentoML's TLS 1.0 ciphers and never reloads its certificate.
        uvicorn.config.create_ssl_context = lambda certfile, keyfile, **_: following_context(certfile, keyfile)
        tasks = [
            TaskEndpoint(api.route, TASKS[name], lambda: _instance().answering, SETTINGS)
            for name, api in self.apis.items()
        ]
        tensors = OpenInference(_instance, SETTINGS)
        tracing = Tracing() if traces.check(os.environ) else None
        admission = Admission(SETTINGS)
        return Api(super().to_asgi(is_main), tasks, tensors, _instance, admission, SETTINGS, tracing)


def _transport_options() -> Options:
    return Options(
        refuse=refuse,
        overloaded=overloaded,
        is_draining=lambda: DRAIN.under_way,
        keep_alive_seconds=SETTINGS.keep_alive_seconds,
        connections=Budget(SETTINGS.max_connections),
        body_bytes=Budget(SETTINGS.max_body_bytes_in_flight),
        single_headers=SINGLE_HEADERS,
    )


def _instance() -> "DeepServe":
    """The service of this worker, once BentoML has started it."""
    instance: DeepServe = get_current_service()
    return instance


def _ssl() -> dict[str, Any]:
    """Return BentoML's configuration of TLS: its workers speak it, and its log says https."""
    if SETTINGS.tls_certificate_file is None:
        return {"enabled": False}
    return {"enabled": True, "certfile": str(SETTINGS.tls_certificate_file), "keyfile": str(SETTINGS.tls_key_file)}


@bentoml.service(
    name="deepserve",
    service_class=FrontedService,
    workers=SETTINGS.workers,
    # The front door has its own of each of these.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    ssl=_ssl(),
)
class DeepServe:
    """Four classic neural networks: digits, sentiment, mammogram masses, and clothing that never was."""

    digits = endpoint(DigitsTask)
    sentiment = endpoint(SentimentTask)
    mammogram = endpoint(MammogramTask)
    fashion = endpoint(FashionTask)

    def __init__(self) -> None:
        """Loads, verifies and warms every model."""
        self.models = ModelRegistry(SETTINGS, TASKS)
        workers = Workers(FOLDER)
        self.readiness = Readiness(workers, SETTINGS.workers)
        self.control = Reconciler(self.models, workers, SETTINGS.watch_seconds, strict=SETTINGS.strict_readiness)
        self.answering = InferenceService(self.models, SETTINGS.shadow)
        gc.set_threshold(10_000, 10, 10)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def follow(self) -> None:
        """Begins to make the changes that other workers ask for."""
        self._following = asyncio.create_task(self.control.follow())
        self._flushing = asyncio.create_task(exposition.keep_flushed())
        tell_started()

    async def predict(self, name: str, request: Payload) -> Answer:
        """Answers a request for the task `name` that has not come by the front door.

        Raises:
            ServiceError: the request or its version is not valid, or there is no time or room to answer it.
        """
        call = current_call.get()
        return await self.answering.answer(self.answering.find(name, call), request, call)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def close(self) -> None:
        """Lets the requests under way finish."""
        self._following.cancel()
        self.control.close()
        await self.answering.close()
        await self.models.close()
        self._flushing.cancel()
        logging.shutdown()  # uvicorn ends the process by the signal that ended it, and nothing is done at exit
