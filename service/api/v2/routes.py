"""The Open Inference Protocol (V2) over REST: tensors in, tensors out, on the same batchers as the task endpoints.

For clients that exist: `tritonclient.http`, `kserve`. What the protocol leaves open is answered as Triton does.
"""

import time
from collections.abc import Callable
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
from service.api.v2.codec import JSON_LENGTH, TensorModel, answer, read
from service.api.v2.codec import Inference as ParsedRequest
from service.api.v2.configuration import Kind, configuration
from service.api.v2.repository import ModelRepository
from service.api.v2.statistics import statistics
from service.api.v2.unsupported import UNSUPPORTED
from service.context import RequestContext
from service.errors import ServiceError
from service.inference.request import TensorRequest
from service.inference.service import InferenceService
from service.observability.collecting import collect
from service.registry.card import GRAPHS
from service.registry.readiness import Readiness
from service.registry.reconciler import Reconciler
from service.registry.registry import ModelRegistry
from service.registry.versions import LoadedVersion
from service.settings import Settings

LARGE = 65536
"""Bytes of a request or response that may take over a millisecond to decode or to compress."""

_JSON_LENGTH = JSON_LENGTH.lower().encode()


class Service(Protocol):
    """What answers."""

    models: ModelRegistry
    inference: InferenceService
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
        self._server_metadata = metadata.server(has_admin=bool(settings.admin_keys))
        self._models: WeakKeyDictionary[LoadedVersion, TensorModel] = WeakKeyDictionary()
        self.routes = [
            *(Route(path, {"GET": self._server}) for path in ("/v2", "/v2/")),
            Route("/v2/health/live", {"GET": self._live}, public=True, probe=True),
            Route("/v2/health/ready", {"GET": self._ready}, public=True, probe=True),
            Route("/v2/models", {"GET": self._list_models}),
            Route("/v2/models/stats", {"GET": self._all_statistics}),
            *ModelRepository(lambda: service().models, lambda: service().control, settings.max_wait_seconds).routes,
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
        """Serve one request to a model's graph."""
        service, params = self._service().inference, request.params
        read_request = partial(self._read, request, context)
        inference = await service.infer(params["name"], params.get("version"), read_request, context)
        context.timings = inference.timings
        parsed, model = inference.state

        def encode() -> HttpResponse:
            return compressed(answer(parsed, inference.outputs, model), request.header(b"accept-encoding"))

        is_small = sum(values.nbytes for values in inference.outputs.values()) <= LARGE
        response = encode() if is_small else await service.run_in_thread(encode)
        inference.timings.encoded = time.perf_counter()
        return response

    async def _read(self, request: HttpRequest, context: RequestContext, loaded: LoadedVersion) -> TensorRequest:
        """Read and decode the body of a request to a model's graph."""
        model, limit = self._tensor_model(loaded), self._settings.max_body_bytes
        body = await read_body(request.receive, request.headers.get(b"content-length"), limit)
        received = time.perf_counter()
        coding, json_length = request.header(b"content-encoding").lower(), request.header(_JSON_LENGTH)

        def decode() -> ParsedRequest:
            return read(inflate(body, coding, limit), json_length, model, context.request_id)

        is_small = not coding and len(body) <= LARGE
        parsed = decode() if is_small else await self._service().inference.run_in_thread(decode)
        return TensorRequest(parsed.inputs, received, (parsed, model), parsed.timeout)

    async def _server(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        return json_reply(self._server_metadata)

    async def _live(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        return json_reply(metadata.Live(live=True))

    async def _ready(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        DRAIN.check_not_under_way()
        self._service().readiness.check()
        return json_reply(metadata.Ready(ready=True))

    async def _list_models(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        return json_reply(metadata.ModelList(list(self._registry.models)))

    async def _metadata(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        version = self._version(request)
        loaded = self._registry.model(version.name).loaded
        return json_reply(metadata.model(version, [each.number for each in loaded]))

    async def _model_ready(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        name = self._version(request).name
        self._service().readiness.check_version(name, request.params.get("version"))
        return json_reply(metadata.ModelReady(name, ready=True))

    async def _configuration(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        version = self._version(request)
        kind: Kind = "KIND_GPU" if version.session.on_gpu else "KIND_CPU"
        filename = GRAPHS[version.session.precision]
        policy = self._service().control.policy(version.name)
        return json_reply(configuration(version.card, kind, filename, policy, self._settings.max_wait_seconds))

    async def _statistics(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        one = "version" in request.params
        versions = [self._version(request)] if one else self._registry.model(request.params["name"]).loaded
        return json_reply(await collect(partial(statistics, versions)))

    async def _all_statistics(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        versions = [version for model in self._registry.models.values() for version in model.loaded]
        return json_reply(await collect(partial(statistics, versions)))

    @property
    def _registry(self) -> ModelRegistry:
        return self._service().models

    def _tensor_model(self, loaded: LoadedVersion) -> TensorModel:
        """Return the inputs and outputs of a version."""
        if (model := self._models.get(loaded)) is None:
            task = loaded.task
            model = self._models[loaded] = TensorModel(loaded.card, task.longest, task.bounds)
        return model

    def _version(self, request: HttpRequest) -> LoadedVersion:
        """The ready version that a path names; the newest if it names none."""
        return self._registry.find(request.params["name"], request.params.get("version"))


def error_reply(error: ServiceError) -> HttpResponse:
    """An error as the protocol has it."""
    return HttpResponse(msgspec.json.encode({"error": cut(error.detail)}), status=error.status, headers=error.headers)
