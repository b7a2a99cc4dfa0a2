"""`GET /v1/models...`: the models, the state of their versions, and the model cards."""

from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

from pydantic import BaseModel, Field

from service.api.routing import JSON, HttpRequest, HttpResponse, Route
from service.context import RequestContext
from service.errors import NotFound, Unavailable
from service.registry.card import Card
from service.registry.registry import ModelRegistry
from service.registry.repository import FILES_MISSING, Repository, State, Version

Reason = Annotated[str | None, Field(exclude_if=lambda reason: reason is None)]
"""Absent from the JSON if there is none."""


class VersionState(BaseModel):
    """A version of a model."""

    version: str
    state: State
    reason: Reason = None
    """Why the version, or a change of its files, is not served; absent if there is no reason."""


class ModelSummary(BaseModel):
    """A model and its versions."""

    name: str
    task: str | None
    """What the model does; null if no version is ready."""
    versions: list[VersionState]
    reason: Reason = None
    """Why no version of the model is known; absent if one is."""


class ModelSummaries(BaseModel):
    """The models."""

    models: list[ModelSummary]


class ModelDetails(ModelSummary):
    """A model, its versions, and a model card."""

    card: Card | None
    """Of the version that answers by default; null if no version is ready."""


class VersionDetails(VersionState):
    """A version of a model and its model card."""

    name: str
    card: Card | None
    """Null if the version is not ready."""


_VERSION_PATH = "/v1/models/{name}/versions/{version}"
_LIST = "The models and their versions."
_MODEL = "A model, and the card of the version that answers by default."
_VERSION = "A version of a model, and its card."


class Catalogue:
    """The model cards over HTTP."""

    def __init__(self, models: Callable[[], ModelRegistry]) -> None:
        self._models = models
        self.routes = [
            Route("GET", path, handler, operation_id, summary, response={JSON: response}, errors=errors)
            for path, handler, operation_id, summary, response, errors in (
                ("/v1/models", self._list_models, "list_models", _LIST, ModelSummaries, ()),
                ("/v1/models/{name}", self._show_model, "get_model", _MODEL, ModelDetails, (NotFound,)),
                (_VERSION_PATH, self._show_version, "get_version", _VERSION, VersionDetails, (NotFound,)),
            )
        ]

    async def _list_models(self, _request: HttpRequest, _context: RequestContext) -> HttpResponse:
        return _reply(ModelSummaries(models=[self._model(name) for name in self._repository.models]))

    async def _show_model(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        model, default = self._model(request.params["name"]), self._default(request.params["name"])
        return _reply(ModelDetails(**dict(model), card=default and default.card))

    async def _show_version(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        version = self._repository.version(request.params["name"], request.params["version"])
        return _reply(VersionDetails(name=version.name, **dict(_state(version)), card=version.card))

    def _model(self, name: str) -> ModelSummary:
        versions = self._repository.versions(name)
        default = self._default(name)
        card = default and default.card
        return ModelSummary(
            name=name,
            task=card and card.task,
            versions=[_state(version) for version in versions.values()],
            reason=None if versions else FILES_MISSING,
        )

    def _default(self, name: str) -> Version | None:
        """Return the version that answers by default, if any does."""
        with suppress(Unavailable):
            return self._models().find(name, None).version
        return None

    @property
    def _repository(self) -> Repository:
        return self._models().repository


def _state(version: Version) -> VersionState:
    return VersionState(version=version.number, state=version.state, reason=version.reason)


def _reply(content: BaseModel) -> HttpResponse:
    return HttpResponse(content.model_dump_json().encode())
