"""The state machine: which states there are, and that no connection can be caught in one."""

import pytest

from service.transport.states import TRANSITIONS, Event, State


def reachable(start: State) -> set[State]:
    found, ahead = {start}, [start]
    while ahead:
        new = set(TRANSITIONS[ahead.pop()].values()) - found
        found |= new
        ahead += new
    return found


def test_every_state_is_reached() -> None:
    assert reachable(State.IDLE) == set(State)


@pytest.mark.parametrize("state", State)
def test_every_state_can_close(state: State) -> None:
    assert TRANSITIONS[state][Event.CLOSE] is State.CLOSED


def test_nothing_leaves_the_closed_state() -> None:
    assert reachable(State.CLOSED) == {State.CLOSED}


def test_nothing_but_the_end_follows_a_last_response() -> None:
    after = {following[Event.LAST_RESPONSE] for following in TRANSITIONS.values() if Event.LAST_RESPONSE in following}
    assert after == {State.LINGERING}
    assert reachable(State.LINGERING) == {State.LINGERING, State.CLOSED}


def test_a_connection_is_used_again_only_once_response_and_body_are_complete() -> None:
    into_idle = {
        (state, event)
        for state, following in TRANSITIONS.items()
        for event, next_state in following.items()
        if next_state is State.IDLE
    }
    assert into_idle == {(State.RESPONDING, Event.RESPONSE), (State.DISCARDING, Event.BODY_END)}
