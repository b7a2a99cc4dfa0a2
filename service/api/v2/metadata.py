"""The metadata of the server and of its models, and the index of the repository."""

from collections.abc import Iterable, Sequence

import msgspec

from service.api.v2.schema import DATATYPES, protocol_shape
from service.registry.card import TensorSpec
from service.registry.repository import FILES_MISSING, Repository, State, Version

_EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "schedule_policy", "statistics")
"""Of `schedule_policy` there is the timeout; no model has levels of priority."""
_CONTROL = ("model_repository", "model_repository(unload_dependents)")


class Live(msgspec.Struct, frozen=True):
    """Whether the process can answer."""

    live: bool


class Ready(msgspec.Struct, frozen=True):
    """Whether every model is loaded and warm."""

    ready: bool


class ModelReady(msgspec.Struct, frozen=True):
    """Whether a model, or a version of it, is ready."""

    name: str
    ready: bool


class ServerMetadata(msgspec.Struct, frozen=True):
    """The server and the extensions that it supports."""

    name: str
    version: str
    extensions: list[str]


class ModelList(msgspec.Struct, frozen=True):
    """The names of the models, as KServe lists them."""

    models: list[str]


class TensorMetadata(msgspec.Struct, frozen=True):
    """An input or output of a model."""

    name: str
    datatype: str
    """Such as FP32."""
    shape: list[int]
    """-1 for a variable size."""


class ModelMetadata(msgspec.Struct, frozen=True):
    """A model: its inputs and outputs, and the versions that are ready."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexEntry(msgspec.Struct, frozen=True):
    """A version of a model in the repository."""

    name: str
    version: str
    state: State
    reason: str
    """Why the version, or a change of its files, is not served; empty if there is no reason."""


def server(*, controlled: bool) -> ServerMetadata:
    """Return the metadata of the server.

    Args:
        controlled: whether clients may load and unload models.
    """
    extensions = sorted(_EXTENSIONS + _CONTROL if controlled else _EXTENSIONS)
    return ServerMetadata("deepserve", "2", extensions)


def model(version: Version, ready: Sequence[str]) -> ModelMetadata:
    """Return the metadata of a model.

    Args:
        version: the version whose inputs and outputs are listed; a ready one.
        ready: the versions that are ready.
    """
    assert version.card is not None
    inputs, outputs = _tensors(version.card.inputs), _tensors(version.card.outputs)
    return ModelMetadata(version.name, list(ready), "onnxruntime_onnx", inputs, outputs)


def index(repository: Repository, *, only_ready: bool) -> list[IndexEntry]:
    """Return every version of every model, or only the ready ones.

    A model whose folder could never be read has one entry, whose version is empty.
    """
    found: list[IndexEntry] = []
    for name, versions in repository.models.items():
        found += [
            IndexEntry(name, number, version.state, version.reason or "")
            for number, version in versions.items()
            if version.state is State.READY or not only_ready
        ]
        if not versions and not only_ready:
            found.append(IndexEntry(name, "", State.UNAVAILABLE, FILES_MISSING))
    return found


def _tensors(specs: Iterable[TensorSpec]) -> list[TensorMetadata]:
    return [TensorMetadata(spec.name, DATATYPES[spec.dtype], protocol_shape(spec.shape)) for spec in specs]
