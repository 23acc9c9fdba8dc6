"""What a session wants done: its instructions, and what must stand behind them at its socket.

Owns their types and the text of a close. Never carries anything out: session makes instructions, dispatch carries them out,
and websocket_server is the SessionDriver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.routing import Route
from perdure.wire.client_messages import Hello
from perdure.wire.opcodes import CLOSE_REASONS, Close

MAX_CLOSE_TEXT = 120


@dataclass(frozen=True, slots=True)
class Admit:
    """Check the tokens and enter the ledger; then call `entered` or `close`."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Forward:
    """Send rows by the session's route, in order, before anything newer."""

    route: Route
    rows: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class AskKeyframe:
    """Ask the zone's owner for a full snapshot."""

    route: Route
    player: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Post LEAVE (or KICK) to the ledger."""

    player: int
    session: int
    kick: bool = False


@dataclass(frozen=True, slots=True)
class Detach:
    """Tell the ledger that the socket is gone."""

    player: int
    session: int


@dataclass(frozen=True, slots=True)
class CloseSocket:
    """Close the websocket; the session is over."""

    code: Close
    text: str


@dataclass(frozen=True, slots=True)
class Say:
    """Put a line on the world's chat."""

    to: str
    text: str


@dataclass(frozen=True, slots=True)
class Who:
    """Tell the client the names of players."""

    keys: tuple[int, ...]


Instruction = Admit | Forward | AskKeyframe | Leave | Detach | CloseSocket | Say | Who


class SessionDriver(Protocol):
    """What carries out a session's instructions at its socket."""

    def entered(self) -> None: ...

    def end(self, code: Close, text: str) -> None: ...

    def plain_descriptor(self) -> int:
        """Return the socket's number if whole frames may be sent on it past its transport just now, else -1."""
        ...


def close_text(code: Close, detail: str = "") -> str:
    """Return the close reason that travels: the code's name and what happened, at most 120 bytes of UTF-8."""
    text = CLOSE_REASONS[code].name
    if detail:
        text = f"{text}: {detail}"
    return text.encode()[:MAX_CLOSE_TEXT].decode(errors="ignore")
