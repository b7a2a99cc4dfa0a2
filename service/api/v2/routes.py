"""The Open Inference Protocol (V2) over REST: tensors in, tensors out, on the same batchers as the task endpoints.

For existing clients: `tritonclient.http`, `kserve`. What the protocol leaves open, the server does as Triton does.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol
from weakref import WeakKeyDictionary

from service.api.body import compressed, decompress, read_body
from service.api.errors import UnsupportedMediaType
from service.api.health import LIVE, READY, Health, probe
from service.api.routing import (
    BYTES,
    JSON,
    REQUEST_HEADERS,
    HttpRequest,
    HttpResponse,
    Parameter,
    Route,
    always,
    json_response,
)
from service.api.v2 import metadata
from service.api.v2.codec import BINARY, JSON_LENGTH, ModelCodec
from service.api.v2.codec import TensorRequest as ParsedRequest
from service.api.v2.configuration import Kind, ModelConfiguration, configuration
from service.api.v2.repository import ModelRepository
from service.api.v2.schema import InferRequest, InferResponse
from service.api.v2.statistics import ModelStatistics, statistics
from service.api.v2.unsupported import UNSUPPORTED
from service.context import RequestContext
from service.errors import NotFound, Unavailable
from service.inference.request import TensorRequest
from service.inference.service import InferenceService
from service.observability.exposition import read_metrics
from service.registry.card import GRAPHS
from service.registry.readiness import Readiness
from service.registry.reconciler import Reconciler
from service.registry.registry import ModelRegistry
from service.registry.versions import LoadedVersion
from service.settings import Settings

LARGE = 65536
"""Bytes of a request or a response that may take over a millisecond to read or to compress."""

_JSON_LENGTH = JSON_LENGTH.lower().encode()

_CODINGS = {"type": "string", "enum": ["gzip", "deflate", "identity"]}
_INFER_HEADERS = (
    *REQUEST_HEADERS,
    Parameter(
        JSON_LENGTH, "How many bytes of the body are JSON; the rest is binary data.", {"type": "integer", "minimum": 0}
    ),
    Parameter("Content-Encoding", "How the body is compressed.", _CODINGS),
)


class Service(Protocol):
    """What the routes use."""

    models: ModelRegistry
    inference: InferenceService
    control: Reconciler
    readiness: Readiness


class OpenInference:
    """The routes under `/v2`."""

    def __init__(self, service: Callable[[], Service], settings: Settings, health: Health) -> None:
        """Create the routes.

        Args:
            service: returns the models and what computes with them, once start-up is complete.
            settings: the body limit, the deadline, and how long a run waits.
            health: of this worker.
        """
        self._service = service
        self._settings = settings
        self._health = health
        self._codecs: WeakKeyDictionary[LoadedVersion, ModelCodec] = WeakKeyDictionary()
        self.routes = [
            *self._server_routes(),
            *self._model_routes("/v2/models/{name}", "v2_model"),
            *self._model_routes("/v2/models/{name}/versions/{version}", "v2_version"),
            *ModelRepository(lambda: service().models, lambda: service().control, settings.max_wait_seconds).routes,
            *UNSUPPORTED,
        ]

    def _server_routes(self) -> Iterator[Route]:
        server = always(json_response(metadata.server(has_admin=bool(self._settings.admin_keys))))
        live = always(json_response(metadata.Live(live=True)))
        yield Route("GET", "/v2/", server)
        for path, handler, operation_id, summary, response in (
            ("/v2", server, "v2_server_metadata", "The server and its extensions.", metadata.ServerMetadata),
            ("/v2/models", self._list_models, "v2_list_models", "The names of the models.", metadata.ModelList),
            ("/v2/models/stats", self._all_statistics, "v2_statistics", "What every model has done.", ModelStatistics),
        ):
            yield Route("GET", path, handler, operation_id, summary, response={JSON: response})
        yield probe("/v2/health/live", live, "v2_server_live", LIVE, {JSON: metadata.Live})
        yield probe("/v2/health/ready", self._ready, "v2_server_ready", READY, {JSON: metadata.Ready}, Unavailable)

    def _model_routes(self, path: str, prefix: str) -> Iterator[Route]:
        """Yield the routes of a model, or of a version of it."""
        errors = (NotFound, Unavailable)
        for suffix, handler, verb, summary, response in (
            ("", self._metadata, "metadata", "Its inputs, outputs and ready versions.", metadata.ModelMetadata),
            ("/ready", self._model_ready, "ready", "Whether it is ready.", metadata.ModelReady),
            ("/config", self._configuration, "config", "Its configuration, as in Triton.", ModelConfiguration),
            ("/stats", self._statistics, "statistics", "What it has done.", ModelStatistics),
        ):
            operation_id = f"{prefix}_{verb}"
            yield Route("GET", path + suffix, handler, operation_id, summary, response={JSON: response}, errors=errors)
        infer = f"{path}/infer", self._infer, f"{prefix}_infer", "Tensors in, tensors out."
        yield Route(
            "POST",
            *infer,
            request={JSON: InferRequest, BINARY: BYTES},
            response={JSON: InferResponse, BINARY: BYTES},
            errors=(*errors, UnsupportedMediaType),
            parameters=_INFER_HEADERS,
            is_rate_limited=True,
        )

    async def _infer(self, request: HttpRequest, context: RequestContext) -> HttpResponse:
        """Serve one request to a model's graph."""
        service, params = self._service().inference, request.params
        read_request = partial(self._read, request, context)
        inference = await service.infer(params["name"], params.get("version"), read_request, context)
        context.timings = inference.timings
        parsed, codec = inference.state

        def encode() -> HttpResponse:
            return compressed(codec.write(parsed, inference.outputs), request.header(b"accept-encoding"))

        is_small = sum(values.nbytes for values in inference.outputs.values()) <= LARGE
        response = encode() if is_small else await service.run_in_thread(encode)
        inference.timings.encoded = time.perf_counter()
        return response

    async def _read(self, request: HttpRequest, context: RequestContext, loaded: LoadedVersion) -> TensorRequest:
        """Read and decode the body of a request to a model's graph."""
        codec, limit = self._codec(loaded), self._settings.max_body_bytes
        body = await read_body(request, limit)
        received = time.perf_counter()
        coding, json_length = request.header(b"content-encoding").lower(), request.header(_JSON_LENGTH)

        def decode() -> ParsedRequest:
            return codec.read(decompress(body, coding, limit), json_length, context.request_id)

        is_small = not coding and len(body) <= LARGE
        parsed = decode() if is_small else await self._service().inference.run_in_thread(decode)
        return TensorRequest(parsed.inputs, received, (parsed, codec), parsed.timeout_seconds)

    async def _ready(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        self._health.check_ready()
        return json_response(metadata.Ready(ready=True))

    async def _list_models(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        return json_response(metadata.ModelList(list(self._registry.models)))

    async def _metadata(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        version = self._version(request)
        loaded = self._registry.model(version.name).loaded
        return json_response(metadata.model(version, [each.number for each in loaded]))

    async def _model_ready(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        name = self._version(request).name
        self._service().readiness.check_version(name, request.params.get("version"))
        return json_response(metadata.ModelReady(name, ready=True))

    async def _configuration(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        version = self._version(request)
        kind: Kind = "KIND_GPU" if version.session.on_gpu else "KIND_CPU"
        filename = GRAPHS[version.session.precision]
        policy = self._service().control.policy(version.name)
        wait_seconds = self._settings.max_wait_seconds
        return json_response(configuration(version.card, kind, filename, policy, wait_seconds))

    async def _statistics(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        one = "version" in request.params
        versions = [self._version(request)] if one else self._registry.model(request.params["name"]).loaded
        return json_response(await read_metrics(partial(statistics, versions)))

    async def _all_statistics(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        versions = [version for model in self._registry.models.values() for version in model.loaded]
        return json_response(await read_metrics(partial(statistics, versions)))

    @property
    def _registry(self) -> ModelRegistry:
        return self._service().models

    def _codec(self, loaded: LoadedVersion) -> ModelCodec:
        """Return the codec of a version, made when the first request for it comes."""
        if (codec := self._codecs.get(loaded)) is None:
            task = loaded.task
            codec = self._codecs[loaded] = ModelCodec(loaded.card, task.longest, task.bounds)
        return codec

    def _version(self, request: HttpRequest) -> LoadedVersion:
        """Return the ready version that a path names; the default if it names none."""
        return self._registry.find(request.params["name"], request.params.get("version"))
