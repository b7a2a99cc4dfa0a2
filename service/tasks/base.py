"""What a task is: the requests it takes, how they become tensors, and what the model's outputs mean.

`Task.preprocess` is the only code that prepares inputs, in serving and in training, so that both see the same numbers.
A task knows neither HTTP nor the engine.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from service.tensors import Array, Rows, Tensors

MAX_ITEMS = 64
"""Maximum number of items in a request."""


class Request(BaseModel):
    """The body of a request. Unknown fields, NaN and infinities are rejected. Bytes are base64 in JSON."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, val_json_bytes="base64", ser_json_bytes="base64")


def null_as(default: object) -> BeforeValidator:
    """Let a field of a `Request` be null: null means the default, as if the field were absent."""
    return BeforeValidator(lambda value: default if value is None else value)


class Response(BaseModel):
    """The body of a response: one prediction per item, in order, and the version that made them."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    model: str
    version: str


class Rendering(NamedTuple):
    """A response in a media type other than JSON."""

    content: bytes
    metadata: Mapping[str, str] = MappingProxyType({})
    """Facts of the response that `content` cannot hold, by lower-case name."""


RequestT = TypeVar("RequestT", bound=Request)
StateT = TypeVar("StateT")
ResponseT = TypeVar("ResponseT", bound=Response)


class Task(ABC, Generic[RequestT, StateT, ResponseT]):
    """A task, bound to one version of its model.

    `StateT` is what `postprocess` needs of the request besides the model's outputs, such as a seed that was drawn;
    None if it needs nothing.
    """

    name: ClassVar[str]
    """Name of the task, of the model's directory and of the route `/v1/{name}`."""

    Request: type[RequestT]
    Response: type[ResponseT]

    inputs: ClassVar[tuple[str, ...]]
    """Names of the graph's inputs, which `preprocess` returns."""

    outputs: ClassVar[tuple[str, ...]]
    """Names of the graph's outputs that `postprocess` reads."""

    files_field: ClassVar[str | None] = None
    """Field of `Request`, a list of bytes, that takes uploaded image files; None if the task takes JSON only."""

    media_types: ClassVar[tuple[str, ...]] = ("application/json",)
    """Media types of a response, the default first. `render` produces all but JSON."""

    sequence: ClassVar[str | None] = None
    """Input whose second dimension is the length of a sequence, padded with 0 on the right; None if there is none."""

    longest: ClassVar[int] = 1024
    """Maximum length of a sequence."""

    bounds: ClassVar[Mapping[str, tuple[int, int]]] = MappingProxyType({})
    """By input, the least and greatest value that the graph accepts, for inputs with such limits."""

    def __init__(self, directory: Path) -> None:
        """Read the files that `preprocess` needs from a version's directory, `models/<name>/<version>`."""
        self.version = directory.name

    def is_slow_to_preprocess(self, request: RequestT) -> bool:  # noqa: ARG002
        """Return whether `preprocess` may block the event loop too long, for more than about 2 ms."""
        return False

    def is_repeatable(self, request: RequestT) -> bool:  # noqa: ARG002
        """Return whether `preprocess` is deterministic for this request, so that its outputs may be cached."""
        return True

    @abstractmethod
    def preprocess(self, request: RequestT) -> tuple[Tensors, StateT]:
        """Return the graph's inputs and the state for `select` and `postprocess`.

        An item has one row or, if it can be read in several ways, several rows; `select` then chooses among them.

        Raises:
            Invalid: an item cannot be read; `faults` name it.
            TooLarge: an item exceeds a limit that is checked before decoding.
        """

    def select(self, outputs: Tensors, state: StateT) -> Rows | None:  # noqa: ARG002
        """Return the row that answers each item, in the order of the items; None if each item has one row.

        Args:
            outputs: the graph's outputs for all rows of `preprocess`.
            state: the state that `preprocess` returned.
        """
        return None

    @abstractmethod
    def postprocess(self, outputs: Tensors, state: StateT) -> ResponseT:
        """Return the response.

        Args:
            outputs: the graph's outputs, one row per item, in the order of the items.
            state: the state that `preprocess` returned.
        """

    @staticmethod
    def features(inputs: Tensors) -> Mapping[str, Array]:  # noqa: ARG004
        """Return the features of the graph's inputs that are compared with their distribution in training.

        Returns:
            By name, one number per row, `[n]`; NaN if it is unknown.
        """
        return {}

    @classmethod
    def render(cls, response: ResponseT, media_type: str) -> Rendering:  # noqa: ARG003
        """Return the response as `media_type`, one of `media_types` other than JSON.

        Raises:
            LookupError: the task does not produce this media type.
        """
        raise LookupError(media_type)


AnyTask = Task[Any, Any, Any]
