"""`GET /v1/models...`: the models, the states of their versions, and the model cards."""

from collections.abc import Callable
from typing import Annotated

from pydantic import BaseModel, Field

from service.api.routing import JSON, HttpRequest, HttpResponse, Route
from service.context import RequestContext
from service.errors import NotFound
from service.registry.card import Card
from service.registry.registry import ModelRegistry
from service.registry.versions import FILES_MISSING, LoadedVersion, Model, State, Version

Reason = Annotated[str, Field(exclude_if=lambda reason: not reason)]
"""Absent from the JSON if empty."""


class VersionState(BaseModel):
    """A version of a model."""

    version: str
    state: State
    reason: Reason = ""
    """Why the version, or the files that are on disk now, are not loaded; absent if they are."""


class ModelSummary(BaseModel):
    """A model and its versions."""

    name: str
    task: str | None
    """What the model does; null if no version is ready."""
    versions: list[VersionState]
    reason: Reason = ""
    """Why the model has no versions; absent if it has."""


class ModelSummaries(BaseModel):
    """The models."""

    models: list[ModelSummary]


class ModelDetails(ModelSummary):
    """A model, its versions, and a model card."""

    card: Card | None
    """Of the default version; null if no version is ready."""


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
    """The routes under `/v1/models`."""

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
        return _response(
            ModelSummaries(models=[_summary(name, model) for name, model in self._models().models.items()])
        )

    async def _show_model(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        name = request.params["name"]
        model = self._models().model(name)
        card = None if model.default is None else model.default.card
        return _response(ModelDetails(**dict(_summary(name, model)), card=card))

    async def _show_version(self, request: HttpRequest, _context: RequestContext) -> HttpResponse:
        version = self._models().version(request.params["name"], request.params["version"])
        card = version.card if isinstance(version, LoadedVersion) else None
        return _response(VersionDetails(name=version.name, **dict(_state(version)), card=card))


def _summary(name: str, model: Model) -> ModelSummary:
    return ModelSummary(
        name=name,
        task=None if model.default is None else model.default.card.task,
        versions=[_state(version) for version in model.versions.values()],
        reason="" if model.versions else FILES_MISSING,
    )


def _state(version: Version) -> VersionState:
    return VersionState(version=version.number, state=version.state, reason=version.reason)


def _response(content: BaseModel) -> HttpResponse:
    return HttpResponse(content.model_dump_json().encode())
