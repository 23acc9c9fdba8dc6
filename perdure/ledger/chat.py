"""Chat as the ledger keeps it: lines in one order for the whole world, kept for a while so that no gateway misses one.

Owns the values that go in and out of `Ledger.say` and `Ledger.chat`. A line is an output of the cluster like any other: it is in the
ledger before anybody reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

CHAT_CHANNEL = "chat"
CHAT_KEPT = 1000
"""Lines that the ledger keeps; a gateway that is away for longer misses the older ones."""
CHAT_PAGE = 200
"""Lines that one reading returns at most."""


class SayStatus(StrEnum):
    OK = "OK"
    NOT_HERE = "NOT_HERE"  # the speaker's session is not the newest, or the speaker is in no zone
    OFFLINE = "OFFLINE"  # whom it is meant for is in no zone


@dataclass(frozen=True, slots=True)
class ChatLine:
    """One line. `to` "": everybody in `zone`, which is where the speaker stood."""

    sender: str
    to: str
    zone: int
    text: str


@dataclass(frozen=True, slots=True)
class ChatPage:
    """`last`: where to read on; opaque, and only good for the server that gave it."""

    last: str
    lines: tuple[ChatLine, ...] = ()
