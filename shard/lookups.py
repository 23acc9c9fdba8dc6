"""Where a player is, for whoever looks one up: as of a tick that is in the log, like everything that leaves a shard.

Owns the questions that wait for a zone's tick to end. Called by shard.tick_loop.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perdure.wire.link import AT_STRUCT
from shard.zone import Phase, Zone

MAX_WAITING = 64
"""Questions that wait at once; what comes on top is answered as if the player were not here."""

Tell = Callable[[bytes], None]


class Lookups:
    """`zones`: those that run here. `busy`: the numbers of those that are in a tick, whose state belongs to a thread. Both are the tick
    loop's own."""

    def __init__(self, zones: dict[int, Zone], busy: set[int]) -> None:
        self._zones, self._busy = zones, busy
        self._waiting: list[tuple[int, int, Tell]] = []

    def ask(self, zone: int, player: int, tell: Tell) -> None:
        """Call `tell` with the place (AT_STRUCT, or nothing): now, or when the zone is through its tick."""
        if zone not in self._busy:
            tell(place_of(self._zones.get(zone), player))
        elif len(self._waiting) < MAX_WAITING:
            self._waiting.append((zone, player, tell))
        else:
            tell(b"")

    def ticked(self) -> None:
        """Zones are through a tick."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for question in waiting:
                self.ask(*question)


def place_of(zone: Zone | None, player: int) -> bytes:
    """Return AT_STRUCT of a player's avatar, or nothing where there is none, or none that is committed."""
    if zone is None or zone.phase not in (Phase.READY, Phase.HELD):
        return b""
    players = zone.players
    found = np.flatnonzero((players["key"] == player) & (players["departed"] == 0) & (players["row"] >= 0))
    if player == 0 or not len(found):
        return b""
    avatar = zone.avatars()[players["row"][found[0]]]
    return AT_STRUCT.pack(zone.tick, float(avatar["x"]), float(avatar["y"]))
