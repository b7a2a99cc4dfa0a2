"""The metadata of the server and of its models, and the index of the repository."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from service.api.v2.schema import DATATYPES, protocol_shape
from service.registry.versions import FILES_MISSING, LoadedVersion, Model, State
from service.tensors import TensorSpec

_EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "schedule_policy", "statistics")
"""Of `schedule_policy` only the timeout is supported: there are no levels of priority."""
_ADMIN_EXTENSIONS = ("model_repository", "model_repository(unload_dependents)")


class Live(msgspec.Struct, frozen=True):
    """Whether the process is live."""

    live: bool


class Ready(msgspec.Struct, frozen=True):
    """Whether the server is ready."""

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
    """The inputs and outputs of a model, and the versions that are ready."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexEntry(msgspec.Struct, frozen=True):
    """A version of a model in the models folder."""

    name: str
    version: str
    state: State
    reason: str
    """Why the version, or the files that are on disk now, are not loaded; empty if they are."""


def server(*, has_admin: bool) -> ServerMetadata:
    """Return the metadata of the server.

    Args:
        has_admin: whether admin keys may load and unload models.
    """
    extensions = sorted(_EXTENSIONS + _ADMIN_EXTENSIONS if has_admin else _EXTENSIONS)
    return ServerMetadata("deepserve", "2", extensions)


def model(version: LoadedVersion, ready: Sequence[str]) -> ModelMetadata:
    """Return the metadata of a model.

    Args:
        version: the version whose inputs and outputs are listed.
        ready: the versions that are ready.
    """
    inputs, outputs = _tensors(version.card.inputs), _tensors(version.card.outputs)
    return ModelMetadata(version.name, list(ready), "onnxruntime_onnx", inputs, outputs)


def index(models: Mapping[str, Model], *, only_ready: bool) -> list[IndexEntry]:
    """Return every version of every model, or only the ready ones.

    A model whose folder could never be read has one entry, with an empty version.
    """
    entries: list[IndexEntry] = []
    for name, found in models.items():
        entries += [
            IndexEntry(name, version.number, version.state, version.reason) for version in found.versions.values()
        ] or [IndexEntry(name, "", State.UNAVAILABLE, FILES_MISSING)]
    return [entry for entry in entries if entry.state is State.READY or not only_ready]


def _tensors(specs: Iterable[TensorSpec]) -> list[TensorMetadata]:
    return [TensorMetadata(spec.name, DATATYPES[spec.dtype], protocol_shape(spec.shape)) for spec in specs]
