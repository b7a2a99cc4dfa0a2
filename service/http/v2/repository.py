"""The model repository extension of the protocol: what is there, and for those with an admin key, what of it is served.

What a model is, is in the repository alone. A request to load one may say which of its versions, as Triton's model
configuration writes it, and bring nothing else: no files, no address to fetch them from.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine
from typing import Annotated, TypeVar

import msgspec

from service.call import Call
from service.engine.repository import Repository
from service.errors import Malformed, NotFound
from service.http.bodies import read_body
from service.http.messages import HttpRequest, Reply, Route, json_reply
from service.http.v2 import metadata
from service.serving.control import Control
from service.versions import MODEL, VersionPolicy

MOST_BYTES = 65536
"""Of a request's body."""

_CONFIGURATION = "Of a model's configuration a request may change the version_policy and nothing else"

Number = Annotated[int, msgspec.Meta(ge=1, lt=10**9)]
T = TypeVar("T")

logger = logging.getLogger(__name__)


class IndexRequest(msgspec.Struct):
    """The JSON of a request for the index."""

    ready: bool = False
    """Only of what is ready."""


class LoadParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to load a model."""

    config: str = "{}"
    """The JSON of a `Configuration`."""


class LoadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON of a request to load a model."""

    parameters: LoadParameters = LoadParameters()


class UnloadParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to unload a model."""

    unload_dependents: bool = False
    """Taken, and without effect: no model depends on another."""


class UnloadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON of a request to unload a model."""

    parameters: UnloadParameters = UnloadParameters()


class Latest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest versions."""

    num_versions: Number


class Every(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All versions."""


class Specific(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The versions of a list."""

    versions: Annotated[list[Number], msgspec.Meta(min_length=1)]


class PolicyChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version policy: one of these."""

    latest: Latest | None = None
    all: Every | None = None
    specific: Specific | None = None


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request may say of a model's configuration."""

    version_policy: PolicyChoice | None = None


class ModelRepository:
    """The routes under `/v2/repository`."""

    def __init__(self, repository: Callable[[], Repository], control: Callable[[], Control]) -> None:
        """Serves the extension.

        Args:
            repository: gives the models, once start-up is complete.
            control: gives what changes them.
        """
        self._repository = repository
        self._control = control
        self._under_way: set[asyncio.Task[None]] = set()
        self.routes = (
            Route("/v2/repository/index", {"POST": self._index}),
            Route("/v2/repository/models/{name}/load", {"POST": self._load}, admin=True),
            Route("/v2/repository/models/{name}/unload", {"POST": self._unload}, admin=True),
        )

    async def _index(self, request: HttpRequest, _call: Call) -> Reply:
        wanted = await _read(request, IndexRequest, "a request for the index")
        return json_reply(metadata.index(self._repository(), only_ready=wanted.ready))

    async def _load(self, request: HttpRequest, call: Call) -> Reply:
        wanted = await _read(request, LoadRequest, "a request to load a model")
        policy = _policy(_decode(wanted.parameters.config, Configuration, _CONFIGURATION))
        return await self._make(self._control().load(_model(request), policy), request, call)

    async def _unload(self, request: HttpRequest, call: Call) -> Reply:
        await _read(request, UnloadRequest, "a request to unload a model")
        return await self._make(self._control().unload(_model(request)), request, call)

    async def _make(self, change: Coroutine[None, None, None], request: HttpRequest, call: Call) -> Reply:
        """Answers once the change is made, in every worker; it is made even if the client does not wait for that."""
        logger.info("request %s: %s", call.request_id, request.path)
        task = asyncio.create_task(change)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)
        return json_reply({})


async def _read(request: HttpRequest, kind: type[T], what: str) -> T:
    """A request's body, which may be empty."""
    body = await read_body(request.receive, request.headers.get(b"content-length"), MOST_BYTES)
    return _decode(body or b"{}", kind, f"The body is not {what}")


def _decode(text: bytes | str, kind: type[T], fault: str) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"{fault}: {error}.") from error


def _policy(configuration: Configuration) -> VersionPolicy | None:
    """The policy that a configuration has; None if it has none."""
    if (choice := configuration.version_policy) is None:
        return None
    match choice:
        case PolicyChoice(latest=Latest(num_versions=count), all=None, specific=None):
            return VersionPolicy(most=count)
        case PolicyChoice(latest=None, all=Every(), specific=None):
            return VersionPolicy(most=None)
        case PolicyChoice(latest=None, all=None, specific=Specific(versions=numbers)):
            return VersionPolicy(most=None, listed=tuple(sorted(set(numbers))))
    raise Malformed("A version_policy is one of latest, all and specific.")


def _model(request: HttpRequest) -> str:
    """The model that a path names, by a name that may stand in the log."""
    if not re.fullmatch(MODEL, name := request.params["name"]):
        raise NotFound("There is no model of this name.")
    return name
