"""The state machine of a connection: all states, events and transitions.

A connection serves one request at a time. `Connection` parses bytes only in a state that reads them, so requests that
a client has pipelined stay unparsed bytes until the response before them is complete.

              REQUEST               BODY_END              RESPONSE
       IDLE ───────────► RECEIVING ───────────► RESPONDING ─────────► IDLE
                             │
                             │ RESPONSE                BODY_END
                             └───────────► DISCARDING ───────────────► IDLE

       IDLE, RECEIVING, RESPONDING ── LAST_RESPONSE ──► LINGERING
       every state ── CLOSE ──► CLOSED

| state | the application | bytes that arrive | it may last |
| --- | --- | --- | --- |
| IDLE | does not run | are the next head | the keep-alive time; once a head has begun, `HEAD_SECONDS` |
| RECEIVING | runs | are the body; reading pauses at a limit | as long as the application |
| RESPONDING | runs | wait unparsed; reading pauses at a limit | as long as the application |
| DISCARDING | is done | are the rest of the body; dropped | `QUIET_SECONDS` without a byte, `LINGER_SECONDS` in all |
| LINGERING | is done | are dropped, up to `LINGER_BYTES` | the same |
| CLOSED | is cancelled | are ignored | |

LINGERING is RFC 9112 section 9.6. A close with unread bytes makes the kernel reset the connection, and a reset
destroys a response that the client has not read. So the server ends its own side first and keeps reading until the
client ends its side too. TLS has no half-close in asyncio: there the server only keeps reading.

The end of the client's side (EOF) closes a connection in every state but RESPONDING: a client that has sent its
requests may end its side and still wait for the responses. A client that has disconnected looks the same, so
`Connection` probes such clients.

A response to an incomplete request leads to DISCARDING if the rest of the body is known to be small, else to LINGERING.
An upgrade offer is ignored (RFC 9110 section 7.8), which needs no state. The shutdown of the server and its drain need
none either: they close idle connections, the drain after
`DRAIN_IDLE_SECONDS`, and make the next response the last one.
"""

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """The state of a connection."""

    IDLE = "idle"
    RECEIVING = "receiving"
    RESPONDING = "responding"
    DISCARDING = "discarding"
    LINGERING = "lingering"
    CLOSED = "closed"


class Event(StrEnum):
    """An event that changes the state of a connection."""

    REQUEST = "request"
    """A complete head has arrived."""
    BODY_END = "body end"
    """The last byte of the body has arrived. It follows the head at once if there is no body."""
    RESPONSE = "response"
    """The response is complete, and another request may follow it."""
    LAST_RESPONSE = "last response"
    """The response is complete, and nothing may follow it."""
    CLOSE = "close"
    """The transport closes: the client disconnects, waits too long, or the last response is complete."""


IDLE, RECEIVING, RESPONDING, DISCARDING, LINGERING, CLOSED = State
REQUEST, BODY_END, RESPONSE, LAST_RESPONSE, CLOSE = Event

TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    IDLE: {
        REQUEST: RECEIVING,
        LAST_RESPONSE: LINGERING,
        CLOSE: CLOSED,
    },
    RECEIVING: {
        BODY_END: RESPONDING,
        RESPONSE: DISCARDING,
        LAST_RESPONSE: LINGERING,
        CLOSE: CLOSED,
    },
    RESPONDING: {
        RESPONSE: IDLE,
        LAST_RESPONSE: LINGERING,
        CLOSE: CLOSED,
    },
    DISCARDING: {
        BODY_END: IDLE,
        CLOSE: CLOSED,
    },
    LINGERING: {
        CLOSE: CLOSED,
    },
    CLOSED: {
        CLOSE: CLOSED,
    },
}
"""The next state by state and event. Other pairs are bugs and raise `KeyError`."""
