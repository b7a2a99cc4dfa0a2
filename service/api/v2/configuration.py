"""Triton's model configuration: `/config` returns it, and clients may send it back to load a model.

Clients use protobuf's JSON mapping (https://protobuf.dev/programming-guides/json/): names in snake case or in lower
camel case, integers as numbers or as strings. A field that is null or has its type's default value counts as absent.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args

import msgspec

from service.api.v2.schema import DATATYPES, protocol_shape
from service.errors import Malformed
from service.registry.card import GRAPHS, Card
from service.tasks.base import MAX_ITEMS
from service.tensors import TensorSpec
from service.version_policy import VersionPolicy

Kind = Literal["KIND_CPU", "KIND_GPU"]
_KINDS: tuple[Kind, ...] = get_args(Kind)
Number = Annotated[int, msgspec.Meta(ge=1, lt=10**9)]
Size = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]
Microseconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]

_CAPITAL = re.compile("[A-Z]")


class Latest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest versions are loaded."""

    num_versions: Number


class All(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All versions are loaded."""


class Specific(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The listed versions are loaded."""

    versions: Annotated[list[Number], msgspec.Meta(min_length=1)]


class PolicyMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The version policy of a model: one of these."""

    latest: Latest | None = None
    all: All | None = None
    specific: Specific | None = None


class ConfiguredTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output of a model."""

    name: str = ""
    data_type: str = ""
    """Such as TYPE_FP32."""
    dims: tuple[Size, ...] = ()
    """Shape without the batch dimension; -1 for a variable size."""


class DynamicBatching(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How requests are batched."""

    max_queue_delay_microseconds: Microseconds = 0


class InstanceGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a model runs."""

    name: str = ""
    kind: Kind | None = None
    count: int = 0


class ModelConfiguration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The configuration of a model: the fields of Triton's `ModelConfig` that apply here."""

    name: str = ""
    platform: str = ""
    backend: str = ""
    version_policy: PolicyMessage | None = None
    max_batch_size: int = 0
    input: tuple[ConfiguredTensor, ...] = ()
    output: tuple[ConfiguredTensor, ...] = ()
    dynamic_batching: DynamicBatching | None = None
    instance_group: tuple[InstanceGroup, ...] = ()
    default_model_filename: str = ""


def configuration(card: Card, kind: Kind, filename: str, policy: VersionPolicy, max_wait: float) -> ModelConfiguration:
    """Return the configuration of a version of a model.

    Args:
        card: of the version.
        kind: of the device that it runs on.
        filename: of its graph.
        policy: of its model.
        max_wait: seconds that a run waits for more rows.
    """
    return ModelConfiguration(
        name=card.name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        version_policy=_encode(policy),
        max_batch_size=MAX_ITEMS,
        input=_tensors(card.inputs),
        output=_tensors(card.outputs),
        dynamic_batching=DynamicBatching(round(max_wait * 1e6)),
        instance_group=(InstanceGroup(card.name, kind, 1),),
        default_model_filename=filename,
    )


def requested_policy(text: str, cards: Iterable[Card], max_wait: float) -> VersionPolicy | None:
    """Return the version policy in a configuration from a client; None if there is none.

    Args:
        text: the configuration as JSON.
        cards: of the model's versions. Every other field must have its value in the configuration of one of them.
        max_wait: as for `configuration`.

    Raises:
        Malformed: the text is not a configuration, or another field has another value.
    """
    asked = _parse(text)
    served = [
        configuration(card, kind, GRAPHS[precision], VersionPolicy(), max_wait)
        for card in cards
        for precision in card.precisions
        for kind in _KINDS
    ]
    for field, default in _DEFAULTS.items():
        value = getattr(asked, field)
        if field != "version_policy" and value != default and value not in [getattr(each, field) for each in served]:
            raise Malformed(f"{_ONLY_POLICY}: {field} is not as this server has it.")
    return None if asked.version_policy is None else _decode(asked.version_policy)


_DEFAULTS = msgspec.structs.asdict(ModelConfiguration())
_ONLY_POLICY = "Of a model's configuration a request may change the version_policy and nothing else"


def _tensors(specs: Iterable[TensorSpec]) -> tuple[ConfiguredTensor, ...]:
    return tuple(
        ConfiguredTensor(spec.name, f"TYPE_{DATATYPES[spec.dtype]}", tuple(protocol_shape(spec.shape)[1:]))
        for spec in specs
    )


def _parse(text: str) -> ModelConfiguration:
    try:
        fields = _present(msgspec.json.decode(text))
        return msgspec.convert(fields, ModelConfiguration, strict=False)  # not strict: "1" is 1
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed(f"{_ONLY_POLICY}: {error}.") from error


def _present(value: Any) -> Any:
    """Return JSON with field names in snake case, and without the fields that count as absent."""
    if isinstance(value, list):
        return [_present(each) for each in value]
    if not isinstance(value, dict):
        return value
    fields = [(_CAPITAL.sub(lambda capital: f"_{capital[0].lower()}", name), each) for name, each in value.items()]
    found = {name: _present(each) for name, each in fields if each or each == {}}
    if len(dict(fields)) < len(fields):
        raise msgspec.DecodeError("a field is there in snake case and in lower camel case")
    return found


def _encode(policy: VersionPolicy) -> PolicyMessage:
    if policy.listed is not None:
        return PolicyMessage(specific=Specific(list(policy.listed)))
    return PolicyMessage(all=All()) if policy.most is None else PolicyMessage(latest=Latest(policy.most))


def _decode(message: PolicyMessage) -> VersionPolicy:
    match message:
        case PolicyMessage(latest=Latest(num_versions=count), all=None, specific=None):
            return VersionPolicy(most=count)
        case PolicyMessage(latest=None, all=All(), specific=None):
            return VersionPolicy(most=None)
        case PolicyMessage(latest=None, all=None, specific=Specific(versions=numbers)):
            return VersionPolicy(most=None, listed=tuple(sorted(set(numbers))))
    raise Malformed("A version_policy is one of latest, all and specific.")
