"""The task endpoints: from a request's body to the payload of its task, and from the answer to bytes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from pydantic import ValidationError

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
from service.inference.service import InferenceService
from service.settings import Settings
from service.tasks.base import MAX_ITEMS, Payload, Task

MULTIPART = "multipart/form-data"

_ABOUT_VERSION = "A version of the model; by default the newest that is ready and not on trial."
_VERSION = Parameter("version", _ABOUT_VERSION, VERSION_NUMBER, "query")
_MODEL_VERSION = Parameter("X-Model-Version", "The version that answers.", VERSION_NUMBER)


@dataclass(frozen=True)
class TaskEndpoint:
    """`POST` to one task."""

    route: str
    predictor: type[Task[Any, Any, Any]]
    """Whose payload it takes."""
    answering: Callable[[], InferenceService]
    """Gives what answers, once start-up is complete."""
    settings: Settings

    async def __call__(self, request: HttpRequest, context: RequestContext) -> HttpResponse:
        """Answers one request, by the version that is there before its body is."""
        representation = self._representation(request)
        context.requested_version = _version(request.query)
        answering = self.answering()
        served = answering.find(self.predictor.name, context)
        served.cached_batcher.check_room()
        answer = await answering.answer(served, await self._payload(request, context), context)
        headers = {"X-Model-Version": answer.version}
        if representation == JSON:
            reply = HttpResponse(answer.__pydantic_serializer__.to_json(answer), headers=headers)
        else:
            body, extra = self.predictor.render(answer, representation)
            reply = HttpResponse(body, representation, headers=headers | extra)
        context.encoded = time.perf_counter()
        return reply

    async def _payload(self, request: HttpRequest, context: RequestContext) -> Payload:
        """The payload, from JSON or, where the task takes files, from a multipart or raw body."""
        content_type = request.header(b"content-type")
        kind = media_type(content_type) or JSON
        takes_files = self.predictor.files_field is not None
        if request.header(b"content-encoding").lower() not in ("", "identity"):
            raise UnsupportedMediaType("A compressed body is not taken here.", accept_encoding="identity")
        if kind != JSON and not (takes_files and (kind == MULTIPART or kind.startswith("image/"))):
            accepted = f"{JSON}, {MULTIPART}, image/*" if takes_files else JSON
            raise UnsupportedMediaType(f"{kind} is not taken here.", accept=accepted)
        body = await read_body(request, self.settings.max_body_bytes)
        context.received = time.perf_counter()
        if kind == JSON:
            return self._from_json(body)
        field = self.predictor.files_field
        assert field is not None
        files = await multipart_files(body, content_type, field) if kind == MULTIPART else [body]
        if not files:
            raise Invalid("The request is not valid.", faults=(Fault((field,), "at least one item"),))
        payload: Payload = self.predictor.Request.model_construct(**{field: files})
        return payload

    def _from_json(self, body: bytes) -> Payload:
        """An empty body stands for an empty object: a task whose fields are all optional needs none."""
        try:
            payload: Payload = self.predictor.Request.model_validate_json(without_bom(body) or b"{}")
        except ValidationError as error:
            raise from_validation(error) from error
        return payload

    def _representation(self, request: HttpRequest) -> str:
        """Return the media type of the response: the client's choice, or the task's own if the client accepts none."""
        offered = self.predictor.media_types
        if len(offered) == 1:
            return offered[0]
        if request.header(b"user-agent").startswith("BentoML"):
            return JSON  # that client accepts anything and then parses JSON
        return preferred_media_type(request.header(b"accept"), offered) or offered[0]


def task_route(endpoint: TaskEndpoint) -> Route:
    """Return the route of a task, with its description."""
    task = endpoint.predictor
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
        response={JSON: task.Answer, **images},
        errors=(NotFound, UnsupportedMediaType, Unavailable),
        parameters=(_VERSION, *REQUEST_HEADERS),
        response_headers=(_MODEL_VERSION,),
        description=f"The response is {default}, or what `Accept` asks for: {', '.join(others)}." if others else "",
        is_rate_limited=True,
    )


def _version(query: bytes) -> str | None:
    """`?version=N`."""
    if not query:
        return None
    return parse_qs(query.decode("latin-1"), keep_blank_values=True).get("version", [None])[-1]
