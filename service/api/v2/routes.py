"""The Open Inference Protocol (V2) over REST: tensors in, tensors out, on the same batchers as the task endpoints.

For clients that exist: `tritonclient.http`, `kserve`. What the protocol leaves open is answered as Triton does.
"""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

import msgspec

from service.api.body import read_body
from service.api.content_coding import compressed, inflate
from service.api.draining import DRAIN
from service.api.messages import HttpRequest, HttpResponse, Route, json_reply
from service.api.problem import cut
from service.api.v2 import metadata
from service.api.v2.codec import JSON_LENGTH, Inference, TensorModel, answer, read
from service.api.v2.configuration import Kind, configuration
from service.api.v2.repository import ModelRepository
from service.api.v2.statistics import statistics
from service.api.v2.unsupported import UNSUPPORTED
from service.context import RequestContext
from service.errors import DeadlineExceeded, ServiceError
from service.inference.service import InferenceService
from service.observability.exposition import read_metrics
from service.registry.card import GRAPHS
from service.registry.readiness import Readiness
from service.registry.reconciler import Reconciler
from service.registry.registry import LoadedVersion, ModelRegistry
from service.registry.repository import Repository, Version
from service.settings import Settings
from service.tensors import Tensors

LARGE = 65536
"""Bytes of a request or an answer that may take over a millisecond to read or to compress."""

_JSON_LENGTH = JSON_LENGTH.lower().encode()


class Service(Protocol):
    """What answers."""

    models: ModelRegistry
    answering: InferenceService
    control: Reconciler
    readiness: Readiness


class OpenInference:
    """The routes under `/v2`."""

    def __init__(self, service: Callable[[], Service], settings: Settings) -> None:
        """Serves tensors.

        Args:
            service: gives what answers, once start-up is complete.
            settings: the body limit, the deadline, and how long a run waits.
        """
        self._service = service
        self._settings = settings
        self._server_metadata = metadata.server(controlled=bool(settings.admin_keys))
        self._models: WeakKeyDictionary[LoadedVersion, TensorModel] = WeakKeyDictionary()
        self.routes = [
            *(Route(path, {"GET": self._server}) for path in ("/v2", "/v2/")),
            Route("/v2/health/live", {"GET": self._live}, public=True, probe=True),
            Route("/v2/health/ready", {"GET": self._ready}, public=True, probe=True),
            Route("/v2/models", {"GET": self._list_models}),
            Route("/v2/models/stats", {"GET": self._all_statistics}),
            *ModelRepository(
                lambda: service().models.repository, lambda: service().control, settings.max_wait_seconds
            ).routes,
            *UNSUPPORTED,
        ]
        for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            self.routes += [
                Route(model, {"GET": self._metadata}),
                Route(f"{model}/ready", {"GET": self._model_ready}),
                Route(f"{model}/config", {"GET": self._configuration}),
                Route(f"{model}/stats", {"GET": self._statistics}),
                Route(f"{model}/infer", {"POST": self._infer}, metered=True),
            ]

    async def _infer(self, request: HttpRequest, context: RequestContext) -> HttpResponse:
        """The outputs of a model for the inputs of a request."""
        answering = self._service().answering
        context.requested_version = request.params.get("version")
        served = answering.find(request.params["name"], context)
        served.cached_batcher.check_room()
        started = asyncio.get_running_loop().time()
        model = self._tensors(served)
        body = await _body(request, self._settings.max_body_bytes)
        context.received = time.perf_counter()
        coding, json_length = request.header(b"content-encoding").lower(), request.header(_JSON_LENGTH)

        def take_apart() -> Inference:
            return read(inflate(body, coding, self._settings.max_body_bytes), json_length, model, context.request_id)

        quick = not coding and len(body) <= LARGE
        inference = take_apart() if quick else await answering.apart(take_apart)
        context.decoded = time.perf_counter()
        computing = answering.compute(served, inference.inputs, inference.inputs, context)
        outputs = await _in_time(computing, started + inference.timeout)

        def put_together() -> HttpResponse:
            return compressed(answer(inference, outputs, model), request.header(b"accept-encoding"))

        quick = sum(values.nbytes for values in outputs.values()) <= LARGE
        reply = put_together() if quick else await answering.apart(put_together)
        context.encoded = time.perf_counter()
        return reply

    async def _server(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        return json_reply(self._server_metadata)

    async def _live(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        return json_reply(metadata.Live(live=True))

    async def _ready(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        DRAIN.check_not_under_way()
        self._service().readiness.check()
        return json_reply(metadata.Ready(ready=True))

    async def _list_models(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        return json_reply(metadata.ModelList(list(self._repository.models)))

    async def _metadata(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        version = self._version(request)
        ready = self._repository.ready_versions(version.name)
        return json_reply(metadata.model(version, [each.number for each in ready]))

    async def _model_ready(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        name = self._version(request).name
        self._service().readiness.check_version(name, request.params.get("version"))
        return json_reply(metadata.ModelReady(name, ready=True))

    async def _configuration(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        version = self._version(request)
        card, session = version.card, version.session
        assert card is not None
        assert session is not None
        kind: Kind = "KIND_CPU" if session.provider == "CPUExecutionProvider" else "KIND_GPU"
        policy = self._service().control.policy(version.name)
        return json_reply(configuration(card, kind, GRAPHS[session.precision], policy, self._settings.max_wait_seconds))

    async def _statistics(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        one = "version" in request.params
        versions = [self._version(request)] if one else self._repository.ready_versions(request.params["name"])
        return json_reply(await read_metrics(partial(statistics, versions)))

    async def _all_statistics(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        versions = [version for name in self._repository.models for version in self._repository.ready_versions(name)]
        return json_reply(await read_metrics(partial(statistics, versions)))

    @property
    def _repository(self) -> Repository:
        return self._service().models.repository

    def _tensors(self, served: LoadedVersion) -> TensorModel:
        """What a version takes and gives, made when it is first asked."""
        if (model := self._models.get(served)) is None:
            card, predictor = served.version.card, served.predictor
            assert card is not None
            model = self._models[served] = TensorModel(card, predictor.longest, predictor.bounds)
        return model

    def _version(self, request: HttpRequest) -> Version:
        """The ready version that a path names; the newest if it names none."""
        return self._service().models.find(request.params["name"], request.params.get("version")).version


def error_reply(error: ServiceError) -> HttpResponse:
    """An error as the protocol has it."""
    return HttpResponse(msgspec.json.encode({"error": cut(error.detail)}), status=error.status, headers=error.headers)


async def _in_time(outputs: Coroutine[None, None, Tensors], end: float) -> Tensors:
    """The outputs, if they are there before the client's own timeout."""
    if end == math.inf:
        return await outputs
    try:
        async with asyncio.timeout_at(end):
            return await outputs
    except TimeoutError as error:
        raise DeadlineExceeded("The timeout of the request passed before the answer was ready.") from error


async def _body(request: HttpRequest, limit: int) -> bytes:
    return await read_body(request.receive, request.headers.get(b"content-length"), limit)
