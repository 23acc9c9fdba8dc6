"""What came over the links for zones since their last ticks: command rows, and who wants a full snapshot.

Owns these until the zone is between two ticks, since a zone that is in a tick belongs to its thread. Never looks into a row. Called by
shard.tick_loop. Rows of many zones come in one frame, and are sorted once a tick: a frame, or an array, a zone would cost more than all
else that is done with most commands. Rows are bounded in all zones together; requests for snapshots are a set of players, and of
gateways, a zone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

MAX_INCOMING_BYTES = 32 << 20

Zones = npt.NDArray[np.uint16]
Rows = npt.NDArray[np.uint8]


@dataclass(slots=True)
class Wanted:
    """Whom a zone is to give full snapshots: players, and all players of gateways."""

    keyframes: set[int] = field(default_factory=set)
    gateways: set[int] = field(default_factory=set)


class Arrivals:
    """`bytes_waiting` is the size of all command rows."""

    def __init__(self) -> None:
        self._came: list[tuple[Zones, Rows]] = []
        self._wanted: dict[int, Wanted] = {}
        self.bytes_waiting = 0

    def add_rows(self, zones: Zones, rows: Rows) -> bool:
        """Keep rows, of which `zones` says what zone each is for; False where too much is waiting already."""
        if self.bytes_waiting + rows.nbytes > MAX_INCOMING_BYTES:
            return False
        self._came.append((zones, rows))
        self.bytes_waiting += rows.nbytes
        return True

    def want_keyframes(self, zone: int, players: list[int]) -> None:
        self._wanted.setdefault(zone, Wanted()).keyframes.update(players)

    def link(self, zone: int, gateway: int) -> None:
        """Players of this gateway want full snapshots: its link is new."""
        self._wanted.setdefault(zone, Wanted()).gateways.add(gateway)

    def rows_of(self, numbers: list[int]) -> list[tuple[int, Rows]]:
        """Take the rows that came for these zones: (zone, rows in the order in which they came)."""
        if not self._came:
            return []
        zones, rows = self._came[0] if len(self._came) == 1 else (np.concatenate(parts) for parts in zip(*self._came, strict=True))
        self._came, self.bytes_waiting = [], 0
        wanted = np.zeros(1 << 16, np.bool_)
        wanted[numbers] = True
        theirs = wanted[zones]
        if not theirs.all():
            self.add_rows(zones[~theirs], rows[~theirs])
            zones, rows = zones[theirs], rows[theirs]
        if not len(zones):
            return []
        if (zones == zones[0]).all():
            return [(int(zones[0]), rows)]
        order = np.argsort(zones, kind="stable")
        zones, rows = zones[order], rows[order]
        starts = [0, *(np.flatnonzero(zones[1:] != zones[:-1]) + 1).tolist(), len(zones)]
        return [(int(zones[start]), rows[start:end]) for start, end in pairwise(starts)]

    def wanted_of(self, numbers: list[int]) -> list[tuple[int, Wanted]]:
        """Take what is wanted of these zones."""
        return [(number, self._wanted.pop(number)) for number in numbers if number in self._wanted] if self._wanted else []

    def forget(self, zone: int) -> None:
        """The zone does not run here any more; its commands are sent again to whoever runs it."""
        self.rows_of([zone])
        self._wanted.pop(zone, None)
