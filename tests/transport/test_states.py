"""The state machine of a connection: the complete table, and what follows from it."""

from itertools import product

import pytest

from service.transport.states import TRANSITIONS, Event, State

IDLE, RECEIVING, RESPONDING, DISCARDING, LINGERING, CLOSED = State
INVALID = None

#             REQUEST    BODY_END    RESPONSE    LAST_RESPONSE  CLOSE
TABLE = {
    IDLE: (RECEIVING, INVALID, INVALID, LINGERING, CLOSED),
    RECEIVING: (INVALID, RESPONDING, DISCARDING, LINGERING, CLOSED),
    RESPONDING: (INVALID, INVALID, IDLE, LINGERING, CLOSED),
    DISCARDING: (INVALID, IDLE, INVALID, INVALID, CLOSED),
    LINGERING: (INVALID, INVALID, INVALID, INVALID, CLOSED),
    CLOSED: (INVALID, INVALID, INVALID, INVALID, CLOSED),
}


def reachable(start: State) -> set[State]:
    found, ahead = {start}, [start]
    while ahead:
        new = set(TRANSITIONS[ahead.pop()].values()) - found
        found |= new
        ahead += new
    return found


@pytest.mark.parametrize(("state", "event"), [*product(State, Event)])
def test_each_event_in_each_state_has_the_next_state_of_the_table_or_is_invalid(state: State, event: Event) -> None:
    assert TRANSITIONS[state].get(event) is TABLE[state][list(Event).index(event)]


def test_every_state_can_be_reached_from_a_new_connection() -> None:
    assert reachable(IDLE) == set(State)


def test_no_event_leaves_the_closed_state() -> None:
    assert reachable(CLOSED) == {CLOSED}


def test_a_connection_only_closes_after_its_last_response() -> None:
    assert reachable(LINGERING) == {LINGERING, CLOSED}


def test_a_connection_takes_another_request_only_after_the_complete_response_and_body() -> None:
    into_idle = {
        (state, event) for state, following in TRANSITIONS.items() for event in following if following[event] is IDLE
    }
    assert into_idle == {(RESPONDING, Event.RESPONSE), (DISCARDING, Event.BODY_END)}
