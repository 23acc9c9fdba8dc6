"""Where a session may stand and what moves it: its whole lifecycle, as one table.

Owns TRANSITIONS. Never does anything itself: gateway.session is the only one to apply the table; admission, fanout,
websocket_server and the tests read states.
"""

from __future__ import annotations

from enum import Enum, IntEnum


class SessionState(IntEnum):
    """Where a session stands."""

    AWAITING_HELLO = 0  # the socket is open, nothing was said
    ENTERING = 1  # the ledger is being asked
    WAITING = 2  # in the world, but no owner of its zone has spoken (yet, or since the last one was lost)
    PLAYING = 3  # snapshots arrive, commands are forwarded
    LEAVING = 4  # the client asked to log out; the zone has not said GONE yet
    CLOSED = 5  # final


class SessionEvent(Enum):
    """What moves a session."""

    HELLO = "hello"
    ENTERED = "entered"
    ROUTED = "routed"  # a frame arrived by a new route
    ROUTE_LOST = "route lost"  # the link broke, or the player moved on to another zone
    LEAVE = "leave"
    CLOSE = "close"


_S, _E = SessionState, SessionEvent
TRANSITIONS: dict[SessionState, dict[SessionEvent, SessionState]] = {
    _S.AWAITING_HELLO: {_E.HELLO: _S.ENTERING, _E.CLOSE: _S.CLOSED},
    _S.ENTERING: {_E.ENTERED: _S.WAITING, _E.CLOSE: _S.CLOSED},
    _S.WAITING: {_E.ROUTED: _S.PLAYING, _E.ROUTE_LOST: _S.WAITING, _E.LEAVE: _S.LEAVING, _E.CLOSE: _S.CLOSED},
    _S.PLAYING: {_E.ROUTED: _S.PLAYING, _E.ROUTE_LOST: _S.WAITING, _E.LEAVE: _S.LEAVING, _E.CLOSE: _S.CLOSED},
    _S.LEAVING: {_E.ROUTED: _S.LEAVING, _E.ROUTE_LOST: _S.LEAVING, _E.LEAVE: _S.LEAVING, _E.CLOSE: _S.CLOSED},
    _S.CLOSED: {},
}
"""The whole lifecycle. An event that has no entry is a fault of the driver, and raises."""
