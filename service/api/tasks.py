"""The task endpoints: from a request's body to the request of its task, and from the task's response to bytes."""

import time
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from pydantic import TypeAdapter, ValidationError

from service.api.body import media_type, multipart_files, read_body, without_bom
from service.api.errors import UnsupportedMediaType
from service.api.negotiation import preferred_media_type
from service.api.problem import from_validation
from service.api.routing import (
    BYTES,
    JSON,
    REQUEST_HEADERS,
    VERSION_NUMBER,
    Content,
    HttpRequest,
    HttpResponse,
    Parameter,
    Route,
)
from service.context import RequestContext
from service.errors import Fault, Invalid, NotFound, Unavailable
from service.inference.request import TaskRequest
from service.inference.service import InferenceService
from service.registry.versions import LoadedVersion
from service.tasks.base import MAX_ITEMS, Request, Task

MULTIPART = "multipart/form-data"

_ABOUT_VERSION = "A version of the model; by default the newest that is ready and not on trial."
_VERSION = Parameter("version", _ABOUT_VERSION, VERSION_NUMBER, "query")
_MODEL_VERSION = Parameter("X-Model-Version", "The version that answers.", VERSION_NUMBER)


class TaskEndpoint:
    """`POST` to one task."""

    def __init__(
        self, route: str, task: type[Task[Any, Any, Any]], inference: InferenceService, max_body_bytes: int
    ) -> None:
        """Serve `task` at the path `route`; bodies may have at most `max_body_bytes`."""
        self.route = route
        self.task = task
        self._inference = inference
        self._max_body_bytes = max_body_bytes
        self._to_json = TypeAdapter(task.Response).serializer.to_json

    async def __call__(self, request: HttpRequest, context: RequestContext) -> HttpResponse:
        """Serve one request."""
        representation = self._representation(request)
        read = partial(self._read, request)
        inference = await self._inference.infer(self.task.name, _version(request.query), read, context)
        context.timings = inference.timings
        response = inference.loaded.task.postprocess(inference.outputs, inference.state)
        headers = {"X-Model-Version": inference.loaded.number}
        if representation == JSON:
            body = self._to_json(response)
        else:
            body, metadata = self.task.render(response, representation)
            headers |= {f"X-{name.title()}": value for name, value in metadata.items()}
        inference.timings.encoded = time.perf_counter()
        return HttpResponse(body, representation, headers=headers)

    async def _read(self, request: HttpRequest, _loaded: LoadedVersion) -> TaskRequest:
        """Read a body: JSON or, if the task takes files, a multipart body or a raw image."""
        content_type = request.header(b"content-type")
        kind = media_type(content_type) or JSON
        files_field = self.task.files_field
        if request.header(b"content-encoding").lower() not in ("", "identity"):
            raise UnsupportedMediaType("A compressed body is not taken here.", accept_encoding="identity")
        if kind != JSON and (files_field is None or not (kind == MULTIPART or kind.startswith("image/"))):
            accepted = JSON if files_field is None else f"{JSON}, {MULTIPART}, image/*"
            raise UnsupportedMediaType(f"{kind} is not taken here.", accept=accepted)
        body = await read_body(request, self._max_body_bytes)
        received = time.perf_counter()
        if kind == JSON or files_field is None:
            return TaskRequest(self._from_json(body), received)
        files = await multipart_files(body, content_type, files_field) if kind == MULTIPART else [body]
        if not files:
            raise Invalid("The request is not valid.", faults=(Fault((files_field,), "at least one item"),))
        return TaskRequest(self.task.Request.model_construct(**{files_field: files}), received)

    def _from_json(self, body: bytes) -> Request:
        """Return the request in a JSON body. An empty body is an empty object: all fields of a task may be optional."""
        try:
            request: Request = self.task.Request.model_validate_json(without_bom(body) or b"{}")
        except ValidationError as error:
            raise from_validation(error) from error
        return request

    def _representation(self, request: HttpRequest) -> str:
        """Return the media type of the response: the client's choice, or the task's own if the client accepts none."""
        offered = self.task.media_types
        if len(offered) == 1:
            return offered[0]
        if request.header(b"user-agent").startswith("BentoML"):
            return JSON  # BentoML's client accepts any type and then parses JSON
        return preferred_media_type(request.header(b"accept"), offered) or offered[0]


def task_route(endpoint: TaskEndpoint) -> Route:
    """Return the route of a task, with its description."""
    task = endpoint.task
    request: dict[str, Any] = {JSON: task.Request}
    if (field := task.files_field) is not None:
        files = {"type": "array", "items": BYTES, "minItems": 1, "maxItems": MAX_ITEMS}
        request[MULTIPART] = {"type": "object", "required": [field], "properties": {field: files}}
        request["image/*"] = BYTES
    images: Content = {media_type: BYTES for media_type in task.media_types if media_type != JSON}
    default, *others = task.media_types
    return Route(
        "POST",
        endpoint.route,
        endpoint,
        operation_id=task.name,
        summary=(task.__doc__ or "").partition("\n")[0],
        request=request,
        response={JSON: task.Response, **images},
        errors=(NotFound, UnsupportedMediaType, Unavailable),
        parameters=(_VERSION, *REQUEST_HEADERS),
        response_headers=(_MODEL_VERSION,),
        description=f"The response is {default}, or what `Accept` asks for: {', '.join(others)}." if others else "",
        is_rate_limited=True,
    )


def _version(query: bytes) -> str | None:
    """Return the parameter `version` of a query; None if it is absent."""
    if not query:
        return None
    return parse_qs(query.decode("latin-1"), keep_blank_values=True).get("version", [None])[-1]
