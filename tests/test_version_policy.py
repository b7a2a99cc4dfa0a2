"""How a version policy is said."""

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
def test_what_is_spelled_is_read_again(value: object) -> None:
    policy = VersionPolicy.parse(value)
    assert VersionPolicy.parse(policy.spelling) == policy


@given(st.lists(st.integers(1, 99), min_size=1), st.integers(1, 99))
def test_a_list_chooses_what_is_in_it(listed: list[int], number: int) -> None:
    assert VersionPolicy.parse(listed).chooses(str(number), 9, [str(number)]) == (number in listed)


@pytest.mark.parametrize("value", ["", "latest", "latest 0", "newest 2", [], [0], ["x"], [True], 3, None, {}])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="latest N"):
        VersionPolicy.parse(value)
