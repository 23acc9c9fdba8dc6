"""What came over the links for a zone since its last tick: command rows, and who wants a full snapshot.

Owns these until the zone is between two ticks, since a zone that is in a tick belongs to its thread. Never looks into a row. Called by
shard.tick_loop. Command rows are bounded in all zones together; requests for snapshots are a set of players, and of gateways, a zone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

MAX_INCOMING_BYTES = 32 << 20


@dataclass(slots=True)
class Arrived:
    """What came for one zone."""

    rows: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    keyframes: set[int] = field(default_factory=set)
    gateways: set[int] = field(default_factory=set)


class Arrivals:
    """By zone; `bytes_waiting` is the size of all command rows."""

    def __init__(self) -> None:
        self._zones: dict[int, Arrived] = {}
        self.bytes_waiting = 0

    def add_rows(self, zone: int, rows: npt.NDArray[np.uint8]) -> bool:
        """Keep rows for the zone's next tick; False where too much is waiting already."""
        if self.bytes_waiting + rows.nbytes > MAX_INCOMING_BYTES:
            return False
        self._zones.setdefault(zone, Arrived()).rows.append(rows)
        self.bytes_waiting += rows.nbytes
        return True

    def want_keyframes(self, zone: int, players: list[int]) -> None:
        self._zones.setdefault(zone, Arrived()).keyframes.update(players)

    def link(self, zone: int, gateway: int) -> None:
        """Players of this gateway want full snapshots: its link is new."""
        self._zones.setdefault(zone, Arrived()).gateways.add(gateway)

    def of(self, zones: list[int]) -> list[tuple[int, Arrived]]:
        """Take what came for these zones."""
        if not self._zones:
            return []
        taken = [(zone, self._zones.pop(zone)) for zone in zones if zone in self._zones]
        self.bytes_waiting -= sum(rows.nbytes for _, arrived in taken for rows in arrived.rows)
        return taken

    def forget(self, zone: int) -> None:
        """The zone does not run here any more; its commands are sent again to whoever runs it."""
        self.of([zone])
