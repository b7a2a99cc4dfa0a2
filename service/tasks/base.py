"""The tasks: for each, what a request looks like, how it becomes tensors, and what the tensors that come back mean.

A predictor stands between HTTP and the engine and knows neither. `decode` is the only code that prepares inputs, in
serving and in training alike, so that both see the same numbers. Where an item can be read in several ways, `decode`
gives a row for each, and `select` chooses the row that answers.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from service.tensors import Array, Rows, Tensors

MAX_ITEMS = 64
"""Most items a single request may hold."""


class Payload(BaseModel):
    """What a client sends: unknown fields, NaN and infinities are refused. Bytes are base64 in JSON."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, val_json_bytes="base64", ser_json_bytes="base64")


def null_as(default: object) -> BeforeValidator:
    """Let a field of a `Payload` be null, which means its default: the same as if it were absent."""
    return BeforeValidator(lambda value: default if value is None else value)


class Answer(BaseModel):
    """What a client gets: one prediction per item, in order, and which model made them."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    model: str
    version: str


RequestT = TypeVar("RequestT", bound=Payload)
FactsT = TypeVar("FactsT")
AnswerT = TypeVar("AnswerT", bound=Answer)


class Task(ABC, Generic[RequestT, FactsT, AnswerT]):
    """One task, bound to one version of its model.

    `FactsT` is what `describe` must know of the request beside the outputs (a seed that was drawn, whether a text was
    cut); `None` where there is nothing.
    """

    name: ClassVar[str]
    """Of the task, of its model's directory and of its route `/v1/{name}`."""

    Request: type[RequestT]
    Answer: type[AnswerT]

    inputs: ClassVar[tuple[str, ...]]
    """The graph's inputs, which `decode` gives."""

    outputs: ClassVar[tuple[str, ...]]
    """Those of the graph's outputs that `describe` takes."""

    files_field: ClassVar[str | None] = None
    """The field of `Request`, a list of bytes, that multipart parts of that name and raw pictures fill; None where the
    task takes JSON alone."""

    media_types: ClassVar[tuple[str, ...]] = ("application/json",)
    """Representations of an answer, the preferred one first; `render` makes those that are not JSON."""

    sequence: ClassVar[str | None] = None
    """The input whose second dimension is a length, padded with 0 on the right; None if no input is a sequence."""

    longest: ClassVar[int] = 1024
    """Most elements of a sequence."""

    bounds: ClassVar[Mapping[str, tuple[int, int]]] = MappingProxyType({})
    """Least and greatest value of those inputs with whose other values the graph fails."""

    def __init__(self, directory: Path) -> None:
        """Reads what `decode` needs from the version's directory, `models/<name>/<version>`."""
        self.version = directory.name

    def is_slow_to_decode(self, request: RequestT) -> bool:  # noqa: ARG002
        """Whether `decode` may take so long (over some 2 ms) that other requests should not wait for it."""
        return False

    def is_repeatable(self, request: RequestT) -> bool:  # noqa: ARG002
        """Whether `decode` gives the same inputs each time; if not, nobody can ask for the same answer again."""
        return True

    @abstractmethod
    def decode(self, request: RequestT) -> tuple[Tensors, FactsT]:
        """Return the graph's inputs, one row per item, or several for an item that can be read in several ways.

        `select` then chooses among the rows of an item.

        Raises:
            Invalid: an item cannot be read; `faults` name it.
            TooLarge: an item is over a limit that is checked before decoding.
        """

    def select(self, outputs: Tensors, facts: FactsT) -> Rows | None:  # noqa: ARG002
        """Return for each item, in order, which row of `decode` answers it; None if there is one row per item.

        Args:
            outputs: of the graph, for all rows of `decode`.
            facts: of `decode`.
        """
        return None

    @abstractmethod
    def describe(self, outputs: Tensors, facts: FactsT) -> AnswerT:
        """Return the answer.

        Args:
            outputs: of the graph, one row per item, in the order of the items.
            facts: of `decode`.
        """

    @staticmethod
    def features(inputs: Tensors) -> Mapping[str, Array]:  # noqa: ARG004
        """What of the graph's inputs shows whether they are like those of training, whoever has prepared them.

        Returns:
            By name, `[n]`: a number of each row, NaN where it is not known.
        """
        return {}

    @classmethod
    def render(cls, answer: AnswerT, media_type: str) -> tuple[bytes, dict[str, str]]:  # noqa: ARG003
        """Body and extra headers of the answer as `media_type`, one of `media_types` other than JSON."""
        raise LookupError(media_type)
