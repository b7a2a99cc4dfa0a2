import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.v2.configuration import configuration, requested_policy
from service.errors import Malformed
from service.registry.card import GRAPHS, Card
from service.version_policy import VersionPolicy
from tests.paths import MODELS

CARDS = [Card.read(path.parent) for path in sorted(MODELS.glob("*/*/card.json"))]
POLICIES = st.sampled_from(["all", "latest 1", "latest 3", [1], [1, 2]]).map(VersionPolicy.parse)
MAX_WAIT = 0.002


def served(policy: VersionPolicy, card: Card = CARDS[0]) -> dict[str, Any]:
    """The configuration as a client gets it."""
    filename = GRAPHS[card.precisions[-1]]
    found: dict[str, Any] = msgspec.to_builtins(configuration(card, "KIND_CPU", filename, policy, MAX_WAIT))
    return found


def requested(sent: object, name: str = CARDS[0].name) -> VersionPolicy | None:
    """The policy of what is sent for the model `name`."""
    cards = [card for card in CARDS if card.name == name]
    return requested_policy(json.dumps(sent), cards, MAX_WAIT)


def with_names(value: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {rename(name): with_names(each, rename) for name, each in value.items()}
    return [with_names(each, rename) for each in value] if isinstance(value, list) else value


def camel(name: str) -> str:
    return re.sub("_([a-z])", lambda letter: letter[1].upper(), name)


def with_numbers(value: Any, write: Callable[[int], object]) -> Any:
    if isinstance(value, dict):
        return {name: with_numbers(each, write) for name, each in value.items()}
    if isinstance(value, list):
        return [with_numbers(each, write) for each in value]
    return write(value) if isinstance(value, int) else value


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.name}-{card.version}")
@pytest.mark.parametrize("number", [int, str, float])
@given(POLICIES, st.booleans())
def test_a_client_can_send_back_what_it_got(number: type, card: Card, policy: VersionPolicy, as_camel: bool) -> None:
    sent = with_numbers(served(policy, card), number)
    assert requested(with_names(sent, camel) if as_camel else sent, card.name) == policy


@given(POLICIES, POLICIES)
def test_the_policy_may_differ(before: VersionPolicy, after: VersionPolicy) -> None:
    assert requested({**served(before), "version_policy": served(after)["version_policy"]}) == after


@given(st.sets(st.sampled_from(list(served(VersionPolicy())))), st.sampled_from([None, "absent"]))
def test_fields_may_be_left_out_or_null(left_out: set[str], how: str | None) -> None:
    sent = served(VersionPolicy())
    for name in left_out:
        if how is None:
            sent[name] = None
        else:
            del sent[name]
    assert requested(sent) == (None if "version_policy" in left_out else VersionPolicy())


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"version_policy": None},
        {"versionPolicy": None},
        {"max_batch_size": 0, "backend": "", "input": [], "instanceGroup": []},
        {"optimization": None, "parameters": None, "runtime": "", "modelWarmup": [], "dynamic_batching": None},
    ],
)
def test_null_and_default_values_are_absent(sent: object) -> None:
    assert requested(sent) is None


@pytest.mark.parametrize(
    ("choice", "policy"),
    [
        ({"specific": {"versions": ["1", "2"]}}, [1, 2]),
        ({"specific": {"versions": [1.0, 2]}, "latest": None}, [1, 2]),
        ({"latest": {"num_versions": "3"}, "all": None}, "latest 3"),
        ({"latest": {"numVersions": 3}}, "latest 3"),
        ({"all": {}, "specific": None}, "all"),
    ],
)
def test_a_policy_is_read_as_protobuf_reads_it(choice: object, policy: object) -> None:
    for name in ("version_policy", "versionPolicy"):
        assert requested({name: choice}) == VersionPolicy.parse(policy)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"name": "sentiment"}, "name"),
        ({"max_batch_size": 1}, "max_batch_size"),
        ({"maxBatchSize": 1}, "max_batch_size"),
        ({"backend": "python"}, "backend"),
        ({"default_model_filename": "/etc/passwd"}, "default_model_filename"),
        ({"input": [{"name": "pictures", "data_type": "TYPE_FP32", "dims": [28, 28]}]}, "input"),
        ({"instance_group": [{"name": "digits", "kind": "KIND_CPU", "count": 2}]}, "instance_group"),
        ({"instance_group": [{"kind": "KIND_MODEL"}]}, "kind"),
        ({"dynamic_batching": {"max_queue_delay_microseconds": 1}}, "dynamic_batching"),
        ({"dynamic_batching": {"preferred_batch_size": [4]}}, "preferred_batch_size"),
        ({"parameters": {"a": {"string_value": "b"}}}, "parameters"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"version_policy": {"newest": {}}}, "newest"),
        ({"version_policy": {"latest": {"num_versions": 1}}, "versionPolicy": {"all": {}}}, "snake case"),
        ({"version_policy": {"all": {}, "latest": {"num_versions": 1}}}, "one of"),
        ({"version_policy": {"latest": None}}, "one of"),
        ({"version_policy": {"latest": {"num_versions": None}}}, "num_versions"),
        ({"version_policy": {"latest": {"num_versions": True}}}, "num_versions"),
        ({"version_policy": {"latest": {"num_versions": 1.5}}}, "num_versions"),
        ({"version_policy": {"specific": {"versions": [None]}}}, "versions"),
        ({"version_policy": {"specific": {"versions": ["one"]}}}, "versions"),
        ({"version_policy": {"specific": {"versions": [10**30]}}}, "versions"),
        ([], "object"),
        (None, "null"),
        ("all", "str"),
    ],
)
def test_another_field_that_differs_is_named_in_the_error(changed: object, word: str) -> None:
    with pytest.raises(Malformed, match=word):
        requested(changed)


@pytest.mark.parametrize("text", ["", "{", "[" * 60_000, '{"a":' * 30_000, '{"a":' * 900 + "1" + "}" * 900, "{} {}"])
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        requested_policy(text, CARDS, MAX_WAIT)
