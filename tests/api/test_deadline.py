"""The time that a client allows for its request."""

import pytest

from service.api.deadline import timeout_seconds
from service.errors import Invalid


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 20), (b"1", 1), (b"0.25", 0.25), (b"1e1", 10), (b" 5 ", 5), (b"20.1", 20)]
)
def test_a_client_may_ask_for_less_time_than_the_server_allows(header: bytes | None, seconds: float) -> None:
    assert timeout_seconds(header, 20) == seconds


@pytest.mark.parametrize("header", [b"", b"0", b"-1", b"nan", b"inf", b"-inf", b"soon", b"1s", b"1,2", b"\xff"])
def test_any_other_value_is_invalid(header: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        timeout_seconds(header, 20)
    [fault] = refused.value.faults
    assert fault.loc == ("header", "X-Request-Timeout")
