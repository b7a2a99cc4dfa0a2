"""The model repository extension: an index of the models and, for clients with an admin key, loading and unloading.

A request to load a model may choose among the versions in the models folder, by the version policy of Triton's model
configuration. It cannot bring files, or addresses to fetch them from.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
import pydantic

from service.api.body import read_body, without_bom
from service.api.routing import JSON, Content, HttpRequest, HttpResponse, Route, json_response
from service.api.v2 import metadata
from service.api.v2.configuration import requested_policy
from service.api.v2.schema import Done
from service.context import RequestContext
from service.errors import LoadFailed, Malformed, NotFound, Unavailable
from service.registry.card import Card
from service.registry.reconciler import CHANGE_SECONDS, Reconciler
from service.registry.registry import ModelRegistry
from service.version_policy import MODEL

MAX_BODY_BYTES = 65536
MAX_CHANGE_SECONDS = 2 * CHANGE_SECONDS
"""Longest wait of a client for a change: until it is made, or made and undone."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class IndexRequest(msgspec.Struct, frozen=True):
    """A request for the index."""

    ready: bool = False
    """Whether to list only ready versions."""


class LoadParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to load a model."""

    config: str = "{}"
    """A `ModelConfiguration` as JSON. Only its version_policy may differ from the server's."""


class LoadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request to load a model."""

    parameters: LoadParameters = LoadParameters()


class UnloadParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to unload a model."""

    unload_dependents: bool = False
    """Has no effect: no model depends on another."""


class UnloadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request to unload a model."""

    parameters: UnloadParameters = UnloadParameters()


_CHANGE: dict[str, Any] = {
    "access": "admin_key",
    "timeout_seconds": MAX_CHANGE_SECONDS,
    "response": {JSON: Done},
    "errors": (NotFound, LoadFailed, Unavailable),
}
"""What the routes of changes have in common."""

_INDEX = "Every version of every model and its state."
_LOAD = "Load a model, or reload what has changed of it, in every worker."
_UNLOAD = "Take a model out of service, in every worker."


class ModelRepository:
    """The routes under `/v2/repository`."""

    def __init__(
        self, registry: Callable[[], ModelRegistry], reconciler: Callable[[], Reconciler], max_wait: float
    ) -> None:
        """Make the routes.

        Args:
            registry: returns the models, once start-up is complete.
            reconciler: returns the reconciler that loads and unloads them.
            max_wait: seconds that a run waits for more rows.
        """
        self._registry = registry
        self._reconciler = reconciler
        self._max_wait = max_wait
        self._changes: set[asyncio.Task[None]] = set()
        """Under way."""
        index = "/v2/repository/index", self._index, "v2_repository_index", _INDEX
        load = "/v2/repository/models/{name}/load", self._load, "v2_repository_load", _LOAD
        unload = "/v2/repository/models/{name}/unload", self._unload, "v2_repository_unload", _UNLOAD
        entries: Content = {JSON: list[metadata.IndexEntry]}
        self.routes = (
            Route("POST", *index, request={JSON: IndexRequest}, response=entries),
            Route("POST", *load, request={JSON: LoadRequest}, **_CHANGE),
            Route("POST", *unload, request={JSON: UnloadRequest}, **_CHANGE),
        )

    async def _index(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        body = await _read(request, IndexRequest, "a request for the index")
        return json_response(metadata.index(self._registry().models, only_ready=body.ready))

    async def _load(self, request: HttpRequest, context: RequestContext) -> HttpResponse:
        body = await _read(request, LoadRequest, "a request to load a model")
        name, config = _model(request), body.parameters.config or "{}"

        async def load() -> None:
            cards = await asyncio.to_thread(_cards, self._registry(), name)
            await self._reconciler().load(name, requested_policy(config, cards, self._max_wait))

        return await self._change(load(), request, context)

    async def _unload(self, request: HttpRequest, context: RequestContext) -> HttpResponse:
        await _read(request, UnloadRequest, "a request to unload a model")
        return await self._change(self._reconciler().unload(_model(request)), request, context)

    async def _change(
        self, change: Coroutine[None, None, None], request: HttpRequest, context: RequestContext
    ) -> HttpResponse:
        """Respond once every worker has made a change. It goes on even if the client does not wait."""
        logger.info("request %s: %s", context.request_id, request.path)
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)
        return json_response(Done())


async def _read(request: HttpRequest, kind: type[T], what: str) -> T:
    """Parse the body of a request, which may be empty. Fields that are null count as absent."""
    body = await read_body(request, MAX_BODY_BYTES)
    try:
        content = msgspec.json.decode(without_bom(body) or b"{}")
        return msgspec.convert(_without_nulls(content), kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"The body is not {what}: {error}.") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    return value


def _cards(registry: ModelRegistry, name: str) -> list[Card]:
    """Return the cards of a model's versions: of the loaded ones, and of all in the models folder."""
    model = registry.models.get(name)
    cards = [] if model is None else [version.card for version in model.loaded]
    with suppress(OSError):
        for directory in (registry.folder.root / name).iterdir():
            with suppress(OSError, pydantic.ValidationError):  # not a version, or one that cannot be loaded either
                cards.append(Card.read(directory))
    return cards


def _model(request: HttpRequest) -> str:
    """Return the model that a path names. Its name is safe in a log line."""
    if not re.fullmatch(MODEL, name := request.params["name"]):
        raise NotFound("There is no model of this name.")
    return name
