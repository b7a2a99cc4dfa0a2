"""`GET /v1/models...`: which models there are, the state of their versions, and their cards."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from service.call import Call
from service.engine.repository import Repository, Version
from service.errors import Unavailable
from service.http.messages import HttpRequest, Reply, Route, json_reply
from service.serving.models import ServedModels


class Catalogue:
    """The model cards over HTTP."""

    def __init__(self, models: Callable[[], ServedModels]) -> None:
        self._models = models
        self.routes = (
            Route("/v1/models", {"GET": self._list_models}),
            Route("/v1/models/{name}", {"GET": self._show_model}),
            Route("/v1/models/{name}/versions/{version}", {"GET": self._show_version}),
        )

    async def _list_models(self, _request: HttpRequest, _call: Call) -> Reply:
        """`/v1/models`: every model, what it does, and its versions."""
        return json_reply({"models": [self._summary(name) for name in self._repository.models]})

    async def _show_model(self, request: HttpRequest, _call: Call) -> Reply:
        """`/v1/models/{name}`: the same for one model, and the card of what answers those who ask for no version."""
        name = request.params["name"]
        return json_reply({**self._summary(name), "card": _card(self._default(name))})

    async def _show_version(self, request: HttpRequest, _call: Call) -> Reply:
        """`/v1/models/{name}/versions/{version}`: one version's state and card."""
        name = request.params["name"]
        version = self._repository.version(name, request.params["version"])
        return json_reply({"name": name, **_state(version), "card": _card(version)})

    def _summary(self, name: str) -> dict[str, Any]:
        versions = self._repository.versions(name)
        default = self._default(name)
        return {
            "name": name,
            "task": default.card.task if default is not None and default.card is not None else None,
            "versions": [_state(version) for version in versions.values()],
            **({} if versions else {"reason": "its files are missing"}),
        }

    def _default(self, name: str) -> Version | None:
        """What answers those who ask for no version, if anything does."""
        with suppress(Unavailable):
            return self._models().find(name, None).version
        return None

    @property
    def _repository(self) -> Repository:
        return self._models().repository


def _state(version: Version) -> dict[str, str]:
    reason = {} if version.reason is None else {"reason": version.reason}
    return {"version": version.number, "state": version.state, **reason}


def _card(version: Version | None) -> dict[str, Any] | None:
    return None if version is None or version.card is None else version.card.model_dump(mode="json")
