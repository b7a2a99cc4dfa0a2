"""Version policies: parsed, encoded for other workers, and applied."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.version_policy import VersionPolicy

POLICIES = st.one_of(
    st.just("all"),
    st.integers(1, 999_999_999).map(lambda most: f"latest {most}"),
    st.lists(st.integers(1, 999_999_999), min_size=1),
)


@given(POLICIES)
def test_a_policy_is_the_same_after_msgspec_has_encoded_it(value: object) -> None:
    policy = VersionPolicy.parse(value)
    assert msgspec.json.decode(msgspec.json.encode(policy), type=VersionPolicy) == policy


@pytest.mark.parametrize(("value", "text"), [("all", "all"), ("latest 3", "latest 3"), ([3, 1, 3], "only 1, 3")])
def test_a_policy_as_text(value: object, text: str) -> None:
    assert str(VersionPolicy.parse(value)) == text


@given(st.lists(st.integers(1, 99), min_size=1), st.integers(1, 99))
def test_a_list_chooses_what_is_in_it(listed: list[int], number: int) -> None:
    assert VersionPolicy.parse(listed).chooses(str(number), 9, [str(number)]) == (number in listed)


@pytest.mark.parametrize("value", ["", "latest", "latest 0", "newest 2", [], [0], ["x"], [True], 3, None, {}])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="latest N"):
        VersionPolicy.parse(value)
