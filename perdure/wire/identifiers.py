"""Identifiers that every part of the cluster agrees on: players, zones, and the grid that the world is cut into.

Owns no state. Called by the gateway, the shard, the coordinator, the client SDK and the ledger.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

PLAYER_NAME_PATTERN = re.compile(r"^[A-Za-z0-9_.\-]{1,32}$")
MAX_ZONES = 1 << 12
LOBBY = -1
"""The place of a player who is in no zone: the lobby record holds what was saved of it."""


def player_key(name: str) -> int:
    """Return the 63-bit key of a player's name (BLAKE2b, 8 bytes, top bit cleared).

    The ledger keeps the name beside the key and refuses a second name with the same key, so a collision is an
    error at login and never two players in one body.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & 0x7FFF_FFFF_FFFF_FFFF


def key_hex(key: int) -> str:
    """Return a player key as the 16 hex digits under which the ledger stores it."""
    return f"{key:016x}"


def name_fault(name: object) -> str | None:
    """Return why `name` cannot be a player's name, or None if it can."""
    if not isinstance(name, str) or not PLAYER_NAME_PATTERN.fullmatch(name):
        return "a player name is 1 to 32 of the characters A-Z a-z 0-9 _ . -"
    return None


@dataclass(frozen=True, slots=True)
class WorldGrid:
    """The world's rectangle, cut into `columns` x `rows` equal zones; zone = row * columns + column."""

    width: float
    height: float
    columns: int
    rows: int

    def __post_init__(self) -> None:
        if not (self.columns >= 1 and self.rows >= 1 and self.columns * self.rows <= MAX_ZONES):
            raise ValueError(f"zones must be 1x1 up to {MAX_ZONES} zones in all, not {self.columns}x{self.rows}")

    @property
    def zones(self) -> int:
        return self.columns * self.rows

    def zone_at(self, x: float, y: float) -> int:
        """Return the zone that holds (x, y); a point outside the world belongs to the nearest zone."""
        column = min(max(int(x * self.columns / self.width), 0), self.columns - 1)
        row = min(max(int(y * self.rows / self.height), 0), self.rows - 1)
        return row * self.columns + column

    def bounds(self, zone: int) -> tuple[float, float, float, float]:
        """Return (x0, y0, x1, y1) of a zone; x1 and y1 are outside."""
        row, column = divmod(zone, self.columns)
        w, h = self.width / self.columns, self.height / self.rows
        return column * w, row * h, (column + 1) * w, (row + 1) * h

    def neighbours(self, zone: int) -> list[int]:
        """Return the up to eight zones that touch `zone`, in rising order."""
        row, column = divmod(zone, self.columns)
        return [
            r * self.columns + c
            for r in range(max(row - 1, 0), min(row + 2, self.rows))
            for c in range(max(column - 1, 0), min(column + 2, self.columns))
            if (r, c) != (row, column)
        ]
