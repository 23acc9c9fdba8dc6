"""What all sessions of a gateway share: the world's schema, the bounds of a session, and the rows of commands seen before.

Owns the layout of a command row's head, and the table of learned commands, which is bounded. Never holds anything of one
session, never reads a clock and does no I/O. Made by service, read by session and websocket_server.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from perdure.game.schema import CommandSchema, Schema

ROW_HEAD = struct.Struct("<qIHBB")
"""player i64, seq u32, session u16 (its low half), kind u8, padding: perdure.wire.link.COMMAND_HEADER; a test compares them."""
ROW_START, ROW_TAIL = struct.Struct("<qIH"), struct.Struct("<BB")
MAX_LEARNED = 4096
ARRAY_16 = 0xDC
CHAT_BURST = 4
"""Lines that a player may be ahead of the rate, beside the one that is said."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Bounds of one session. Rates are per second; 0 commands a second means twice the tick rate."""

    commands_per_second: float = 0.0
    others_per_second: float = 20.0
    max_pending: int = 64
    poison_deaths: int = 3
    chat_per_second: float = 1.0


class WorldRules:
    """What all sessions of a gateway share: the schema, and what follows from it and from the limits."""

    def __init__(self, schema: Schema, limits: SessionLimits, zones: int = 1) -> None:
        self.schema = schema
        self.schema_wire = schema.to_wire()
        self.schema_hash = schema.hash
        self.limits = limits
        self.zones = zones
        self.commands: dict[int, CommandSchema] = {command.kind: command for command in schema.commands}
        self.map_frame = b""
        """Who runs which zone now, as a frame for clients; empty until the first view."""
        self.learned: dict[bytes, tuple[int, bytes]] = {}
        """Bytes of a checked command behind its number -> (its first byte, the row behind the number)."""
        self.row_bytes = ROW_HEAD.size + schema.command_payload_bytes
        rate = limits.commands_per_second or 2.0 * schema.tick_hz
        self.command_interval_s = 1.0 / rate
        # One second's worth, and a full resend after a resume on top of it.
        self.command_burst_s = 1.0 + limits.max_pending * self.command_interval_s
        # Refusals for speed are forgiven at a quarter of the rate; a second's worth of them on end is too many.
        self.strike_interval_s = 4.0 * self.command_interval_s
        self.strike_burst_s = 4.0
        self.other_interval_s = 1.0 / limits.others_per_second
        self.other_burst_s = 2.0
        self.chat_interval_s = 1.0 / limits.chat_per_second
        self.chat_burst_s = CHAT_BURST * self.chat_interval_s

    def learn(self, data: bytes, at: int, kind: int, payload: bytes) -> tuple[int, bytes]:
        """Return the learned form of a checked command, and keep it where `at` says that its bytes from there on are all."""
        row = ROW_TAIL.pack(kind, 0) + payload.ljust(self.row_bytes - ROW_HEAD.size, b"\0")
        form = data[0], row
        if at and data[0] != ARRAY_16:
            if len(self.learned) >= MAX_LEARNED:
                self.learned.clear()  # fields of many values, or somebody who tries: begin anew, it costs one long way each
            self.learned[data[at:]] = form
        return form
