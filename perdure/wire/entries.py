"""Inbox entries: what reaches a zone through the ledger rather than from a gateway's link.

An entry is ENTRY_HEADER bytes and a payload. The ledger's functions build JOIN and ATTACH entries themselves, so
this layout stands twice: here and in functions/*.lua; the ledger contract suite compares them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

ENTRY_STRUCT = struct.Struct("<BBHIqIIII")
"""kind u8, type u8, origin zone u16, session u32, player i64, gateway u32, slot u32, hop u32, last_seq u32."""
ENTRY_HEADER = ENTRY_STRUCT.size
HOP_AT = 24
"""Where the hop stands in an entry: the number of the player's move, which rises by one with each."""
SEQ_AT = 28
"""Where the number of the player's last applied command stands."""
NO_ORIGIN = 0xFFFF


class EntryKind(IntEnum):
    """What an inbox entry asks of the zone. Numbers are on the log: never renumber."""

    JOIN = 1  # a player comes from the lobby, and numbers its commands on from last_seq; payload: what was saved of it, or nothing
    ATTACH = 2  # a player in this zone is now on (gateway, slot) with this session
    DETACH = 3  # its socket is gone; it stays until the grace time is over
    LEAVE = 4  # log out: the zone returns it to the lobby
    ARRIVE = 5  # an entity crossed a border; payload: its row; with player = 0 for one without a player
    GATEWAY_LOST = 6  # every player attached to `gateway` is detached
    KICK = 7  # put out by an operator; like LEAVE
    MOVED = 8  # the player is elsewhere since its move number `hop`: a copy here that has moved less is left over, and goes
    EFFECT = 9  # an entity's effect on another one, without a player; payload: its row; stamped as an arrival without a player


@dataclass(frozen=True, slots=True)
class Entry:
    """One inbox entry, decoded. `type` is the index of the entity type (ARRIVE) or of the effect (EFFECT), else 0."""

    kind: EntryKind
    player: int = 0
    session: int = 0
    gateway: int = 0
    slot: int = 0
    hop: int = 0
    last_seq: int = 0
    type: int = 0
    origin: int = NO_ORIGIN
    payload: bytes = b""

    def pack(self) -> bytes:
        return (
            ENTRY_STRUCT.pack(
                self.kind, self.type, self.origin, self.session, self.player, self.gateway, self.slot, self.hop, self.last_seq
            )
            + self.payload
        )


def unpack_entry(data: bytes) -> Entry:
    """Decode one inbox entry; raises ValueError where it is too short or of an unknown kind."""
    if len(data) < ENTRY_HEADER:
        raise ValueError(f"an inbox entry has {len(data)} bytes, fewer than its header of {ENTRY_HEADER}")
    kind, type_, origin, session, player, gateway, slot, hop, last_seq = ENTRY_STRUCT.unpack_from(data)
    return Entry(EntryKind(kind), player, session, gateway, slot, hop, last_seq, type_, origin, data[ENTRY_HEADER:])
