"""The BentoML service. BentoML starts and stops the workers, packages the service, and describes it to its clients.

HTTP and batching are deepserve's own: see `service.api` and `service.engine`. Importing this module has no
effects, because BentoML imports it to build, to supervise and to serve.
"""

import asyncio
import gc
import logging
import os
import warnings
from functools import cache, partial
from typing import Any

import bentoml
import uvicorn.config
from _bentoml_sdk import Service  # the class that `service_class=` extends; bentoml does not export it
from _bentoml_sdk.method import APIMethod
from starlette.types import ASGIApp

from service.api.app import Api, all_routes
from service.api.health import Health
from service.api.tasks import TaskEndpoint
from service.api.transport_options import transport_options
from service.inference.binding import bind
from service.inference.service import InferenceService
from service.observability import exposition, tracing
from service.observability import logging as logs
from service.processes.state_directory import state_directory
from service.processes.worker import end_with_supervisor, notify_started
from service.registry.readiness import Readiness
from service.registry.reconciler import Reconciler
from service.registry.registry import ModelRegistry
from service.registry.workers import Workers
from service.settings import Settings, settings
from service.tasks import TASKS
from service.tasks.base import Request, Response
from service.tls import reloading_context
from service.transport.connection import Connection


def endpoint(name: str) -> APIMethod[..., Any]:
    """Return the typed method that describes a task to BentoML's clients; `TaskEndpoint` serves it."""
    task = TASKS[name]

    async def describe(self: "DeepServe", request: Request, /) -> Response:
        raise NotImplementedError("service.api serves this route, in front of BentoML")

    describe.__name__ = task.name
    describe.__doc__ = task.__doc__
    describe.__annotations__ = {"request": task.Request, "return": task.Response}
    method: APIMethod[..., Any] = bentoml.api(route=f"/v1/{task.name}")(describe)
    return method


class Worker:
    """The parts of one worker."""

    def __init__(self, settings: Settings) -> None:
        """Create the parts; no model is loaded yet."""
        self.models = ModelRegistry(settings, bind)
        self.inference = InferenceService(self.models, settings.shadow)
        self.workers = Workers(state_directory())
        self.readiness = Readiness(self.workers, settings.workers)
        strict = settings.strict_readiness
        self.control = Reconciler(self.models, self.workers, settings.watch_seconds, strict=strict)

    def load(self) -> None:
        """Load, verify and warm up every model."""
        self.control.start()

    async def start(self) -> None:
        """Follow changes of the models that other workers request."""
        self._tasks = [asyncio.create_task(each) for each in (self.control.run(), exposition.keep_flushed())]
        notify_started()

    async def close(self) -> None:
        """Complete the requests under way and stop."""
        for task in self._tasks:
            task.cancel()
        self.control.close()
        await self.inference.close()
        await self.models.close()


@cache
def worker() -> Worker:
    """Return the worker that this process is."""
    return Worker(settings())


class ApiService(Service["DeepServe"]):  # type: ignore[misc]  # bentoml is not typed for users
    """A BentoML service whose HTTP API is deepserve's instead of BentoML's."""

    def inject_config(self) -> None:
        """Configure BentoML, which calls this before it builds, supervises or serves.

        `bentoml serve` starts as many workers as the settings say, and all of them inherit one state directory.
        """
        state_directory()
        self.config.update(workers=settings().workers, ssl=_tls(settings()))
        super().inject_config()

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Return the API. It passes the lifespan on to BentoML's app, which starts and stops `DeepServe`."""
        chosen = settings()
        health = Health(lambda: worker().readiness)
        _prepare_process(chosen, health)
        served = worker()
        tasks = [
            TaskEndpoint(method.route, TASKS[name], served.inference, chosen.max_body_bytes)
            for name, method in self.apis.items()
        ]
        spans = tracing.Tracing() if tracing.check(os.environ) else None
        routes = all_routes(tasks, worker, chosen, health)
        return Api(super().to_asgi(is_main), routes, health, chosen, spans)


@bentoml.service(
    name="deepserve",
    service_class=ApiService,
    # The API has its own of each of these.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class DeepServe:
    """Four classic neural networks: digits, sentiment, mammogram masses, and clothing that never was."""

    digits = endpoint("digits")
    sentiment = endpoint("sentiment")
    mammogram = endpoint("mammogram")
    fashion = endpoint("fashion")

    def __init__(self) -> None:
        """Load every model. BentoML creates the instance when a worker starts."""
        worker().load()

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def start(self) -> None:
        """Start what runs beside the requests."""
        await worker().start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def close(self) -> None:
        """Complete the requests under way."""
        await worker().close()
        logging.shutdown()  # uvicorn ends the process by the signal that stopped it, without exit handlers


def _prepare_process(chosen: Settings, health: Health) -> None:
    """Set what holds for the whole process of a worker."""
    end_with_supervisor()  # the supervisor of `bentoml serve` too
    exposition.share(state_directory(), chosen.workers)
    logs.set_up(chosen.log_level, chosen.log_format)
    for library in ("PIL", "python_multipart"):  # the response tells the client what is wrong with a request
        logging.getLogger(library).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="PIL")
    gc.set_threshold(10_000, 10, 10)
    # BentoML starts uvicorn, whose choice of its protocol class depends on this table.
    protocols: dict[str, Any] = uvicorn.config.HTTP_PROTOCOLS
    protocols["auto"] = partial(Connection, transport_options(chosen, health))
    # uvicorn's own TLS context would have BentoML's ciphers for TLS 1.0, and never reload its certificate.
    uvicorn.config.create_ssl_context = lambda certfile, keyfile, **_: reloading_context(certfile, keyfile)


def _tls(chosen: Settings) -> dict[str, Any]:
    """Return BentoML's configuration of TLS: its workers use it, and its log shows https."""
    if chosen.tls_certificate_file is None:
        return {"enabled": False}
    return {"enabled": True, "certfile": str(chosen.tls_certificate_file), "keyfile": str(chosen.tls_key_file)}
